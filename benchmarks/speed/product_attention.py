"""What attention by whole matrix products spares on a CPU that multiplies bfloat16: beside torch's fused kernel, by turns in one run.

    python benchmarks/speed/product_attention.py MODEL_FOLDER TEXT

First the attention of one block alone, forward and forward with gradient, at several lengths of packed rows; then the whole model over
real text: seconds a pass, and the mean KL of its next-token distributions from those of the same model in float32. The README's table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attar.compressors.models.product_attention import NAME, attention

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

NUM_TOKENS, NUM_SEQUENCES, NUM_ROUNDS = 512, 8, 15
WAYS = {"fused": sdpa_attention_forward, "products": attention}


def main() -> None:
    """Print both tables."""
    folder, text = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    print(
        "| rows in 512 tokens | forward, ms | with products | with gradient, ms | with products |\n|---|---|---|---|---|"
    )
    for count in (1, 2, 4, 8):
        cells = [f"{seconds * 1e3:.2f}" for pair in _block(model.config, count) for seconds in pair]
        print(f"| {count} of {NUM_TOKENS // count} | " + " | ".join(cells) + " |", flush=True)
    ids = AutoTokenizer.from_pretrained(folder)(Path(text).read_text()[: 40 * NUM_TOKENS * NUM_SEQUENCES]).input_ids
    batch = torch.tensor(ids[: NUM_TOKENS * NUM_SEQUENCES]).view(NUM_SEQUENCES, 1, NUM_TOKENS)
    exact = _logprobs(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), batch)
    for name in ("sdpa", NAME):
        model.set_attn_implementation(name)
        logprobs = _logprobs(model, batch)
        divergence = float((exact.exp() * (exact - logprobs)).sum(-1).mean())
        with torch.no_grad():
            passes = [
                _seconds(lambda: model.base_model(input_ids=batch[0], use_cache=False)) for _ in range(NUM_ROUNDS)
            ]
        seconds = min(passes)
        print(f"{name}: {seconds * 1e3:.0f} ms a pass over {NUM_TOKENS} tokens, KL from float32 {divergence:.5f} nats")


def _block(config: object, count: int) -> list[list[float]]:
    """Return the shortest seconds of (forward; forward and gradient), each (fused, by products), of rounds that take turns."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads  # type: ignore[attr-defined]
    width = config.hidden_size // heads  # type: ignore[attr-defined]
    module = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True)
    document = torch.arange(NUM_TOKENS) // (NUM_TOKENS // count)
    mask = torch.ones(1, 1, NUM_TOKENS, NUM_TOKENS, dtype=torch.bool).tril() & (document[:, None] == document[None, :])
    parts = [torch.randn(1, n, NUM_TOKENS, width, dtype=torch.bfloat16) for n in (heads, groups, groups)]
    outer = torch.randn(1, NUM_TOKENS, heads, width, dtype=torch.bfloat16)

    def forward(way: Callable[..., tuple[Tensor, None]]) -> None:
        with torch.no_grad():
            way(module, *parts, mask)

    def both(way: Callable[..., tuple[Tensor, None]]) -> None:
        leaves = [part.detach().requires_grad_() for part in parts]
        way(module, *leaves, mask)[0].backward(outer)

    shortest = [[float("inf")] * len(WAYS) for _ in (forward, both)]
    for _ in range(NUM_ROUNDS):
        for index, task in enumerate((forward, both)):
            for column, way in enumerate(WAYS.values()):
                taken = _seconds(lambda task=task, way=way: task(way))
                shortest[index][column] = min(shortest[index][column], taken)
    return shortest


@torch.no_grad()
def _logprobs(model: torch.nn.Module, batch: Tensor) -> Tensor:
    return torch.cat([model(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1) for row in batch])


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    recorded(main)
