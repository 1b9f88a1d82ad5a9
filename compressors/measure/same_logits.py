"""Whether two models give the same logits, and one model the same with a KV cache as without. On a few short prompts."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import CausalRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_PROMPTS, NUM_PROMPT_TOKENS, NUM_DECODED_TOKENS = 3, 16, 8
# Of the largest logit. The same weights through the same kernels: what a file and a load may change is nothing, what a kernel chosen by
# the alignment of memory may change is a last digit.
SAME_KERNELS = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# The same numbers added in another order: one token at a time, or without the terms that are zero. 24 blocks in float32 came to 1.2e-4.
OTHER_ORDER = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
# With keys and values in codes of 8 bits, where a sum in another order may fall on the next code.
OTHER_CODES = 5e-2


def probe_ids(vocab_size: int, device: torch.device | str = "cpu") -> Int[Tensor, "B T"]:
    """Return the prompts: token ids from all over the vocabulary, always the same."""
    ids = torch.randint(vocab_size, (NUM_PROMPTS, NUM_PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    return ids.to(device)


@torch.no_grad()
def probe_logits(model: PreTrainedModel) -> Float[Tensor, "B T V"]:
    """Return the logits at every place of the prompts, computed without a cache, in float32 on the CPU."""
    ids = probe_ids(model.config.vocab_size, model.device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float().cpu()


def difference(first: Tensor, other: Tensor) -> float:
    """Return the largest difference as a share of the largest logit. Infinite where shapes differ or a number is not finite."""
    if first.shape != other.shape:
        return float("inf")
    scale = float(first.abs().max().clamp(min=1e-6))
    share = float((first - other).abs().max()) / scale
    return share if math.isfinite(share) else float("inf")


@torch.no_grad()
def cache_difference(model: PreTrainedModel) -> float:
    """Return how far decoding with a cache is from reading the decoded text without one. The largest difference as a share of the largest logit.

    The text is read in one run: a causal model's logits do not depend on what follows, and a model that is none is apart here.
    """
    ids = probe_ids(model.config.vocab_size, model.device)
    with_cache, text = _decoded(model, ids)
    text = text[:, : NUM_PROMPT_TOKENS + NUM_DECODED_TOKENS - 1]  # nothing is decoded behind the last token
    options = {"attention_mask": torch.ones_like(text), "use_cache": False}
    if (
        "position_ids" in inspect.signature(model.forward).parameters
    ):  # said by whoever decodes; some families count otherwise by themselves
        options["position_ids"] = torch.arange(text.shape[1], device=text.device).expand_as(text)
    without = model(input_ids=text, **options).logits[:, NUM_PROMPT_TOKENS - 1 :].float().cpu()
    steps, rows = range(NUM_DECODED_TOKENS), range(len(ids))
    return max(difference(without[row, step], with_cache[step][row]) for step in steps for row in rows)


@torch.no_grad()
def decoded_difference(runner: CausalRunner, vocab_size: int) -> float:
    """Return how far a runner's logits with its cache are from those of the same text read whole. As a share of the largest logit."""
    ids = probe_ids(vocab_size, runner.device)
    logits, cache = runner.forward(ids, torch.ones_like(ids), None, last_only=True)
    steps, text = [logits[:, -1].clone()], ids
    for _ in range(NUM_DECODED_TOKENS - 1):
        token = steps[-1].argmax(dim=-1, keepdim=True)
        text = torch.cat([text, token], dim=1)
        logits, cache = runner.forward(token, torch.ones_like(text), cache, last_only=True)
        steps.append(logits[:, -1].clone())
    whole, _ = runner.forward(text, torch.ones_like(text), None, last_only=False)
    return difference(whole[:, NUM_PROMPT_TOKENS - 1 :], torch.stack(steps, dim=1))


def _decoded(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> tuple[list[Float[Tensor, "B V"]], Int[Tensor, "B S"]]:
    """Return the logits of each step of greedy decoding with a cache, and prompts with what was decoded."""
    from transformers import GenerationConfig  # seconds at import

    # the model's own config may end a text or bend the logits; it is put back
    own, model.generation_config = model.generation_config, GenerationConfig()
    generation = GenerationConfig(
        max_new_tokens=NUM_DECODED_TOKENS,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    try:
        decoded: Any = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=generation)  # type: ignore[operator]
    finally:
        model.generation_config = own
    return [step.float().cpu() for step in decoded.logits], decoded.sequences
