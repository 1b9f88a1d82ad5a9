"""Count what a model costs: parameters, FLOPs a token, and seconds to prefill and decode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressors.measure.runner import CausalRunner

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def num_parameters(model: PreTrainedModel) -> int:
    """Return the number of distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_matmul_parameters(model: PreTrainedModel) -> int:
    """Return the parameters each token is multiplied with: all matrices and the output head, but not the embedding lookup."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    matrices = {id(p): p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings}
    if isinstance(head, nn.Linear):
        matrices[id(head.weight)] = head.weight.numel()
    return sum(matrices.values())


def flops_per_token(num_matmul_parameters: int, config: PretrainedConfig, num_context_tokens: int) -> float:
    """Return FLOPs to decode one token with `num_context_tokens` in the cache."""
    return decode_flops(num_matmul_parameters, config.num_hidden_layers, attention_width(config), num_context_tokens)


def decode_flops(num_matmul_parameters: int, num_blocks: int, attention_width: int, num_context_tokens: int) -> float:
    """Return FLOPs to decode one token: 2 a matrix parameter, plus attention.

    Attention adds 4 * width * context a block: scores and weighted values, two FLOPs a multiply-add.
    """
    return 2.0 * num_matmul_parameters + 4.0 * num_blocks * attention_width * num_context_tokens


def attention_width(config: PretrainedConfig) -> int:
    """Return heads * head size: the width of a block's queries."""
    num_heads = config.num_attention_heads
    return num_heads * (getattr(config, "head_dim", None) or config.hidden_size // num_heads)


@dataclass(frozen=True)
class Latency:
    """Median seconds to prefill a prompt of `num_prompt_tokens`, and to decode one more token, batch 1."""

    num_prompt_tokens: int
    prefill_seconds: float
    decode_seconds_per_token: float


def measure_latency(
    runner: CausalRunner,
    *,
    vocab_size: int,
    num_prompt_tokens: int = 128,
    num_new_tokens: int = 32,
    num_rounds: int = 3,
    on_round: Callable[[], None] = lambda: None,
) -> Latency:
    """Time prefill and decode on random tokens; the first round warms up and is not counted."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(vocab_size, (1, num_prompt_tokens), generator=generator).to(runner.device)
    rounds = []
    for _ in range(num_rounds + 1):
        rounds.append(_time_once(runner, prompt, num_new_tokens))
        on_round()
    prefill, decode = zip(*rounds[1:], strict=True)
    return Latency(num_prompt_tokens, statistics.median(prefill), statistics.median(decode))


def _time_once(runner: CausalRunner, prompt: torch.Tensor, num_new_tokens: int) -> tuple[float, float]:
    mask, cache = torch.ones_like(prompt), None
    started = _now(runner.device)
    logits, cache = runner.forward(prompt, mask, cache, last_only=True)
    prefilled = _now(runner.device)
    for _ in range(num_new_tokens):
        token = logits[:, -1].argmax(dim=-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        logits, cache = runner.forward(token, mask, cache, last_only=True)
    return prefilled - started, (_now(runner.device) - prefilled) / num_new_tokens


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()  # kernels run behind the clock otherwise
    return time.perf_counter()
