"""Count what a model costs: parameters, FLOPs a token, and seconds to prefill and decode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from attar.compressors.models.experts import idle_parameters
from attar.compressors.models.runner import CausalRunner

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What has one shape takes about the same time: apart by more than a third, it is the machine that was measured.
MAX_APART = 1.0 / 3.0
# From a prompt, a row of tokens, and a number of new ones to (seconds to prefill, seconds a new token).
Timer = Callable[[torch.Tensor, int], tuple[float, float]]


def num_parameters(model: PreTrainedModel) -> int:
    """Return the number of distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_matmul_parameters(model: PreTrainedModel) -> int:
    """Return the parameters each token is multiplied with: all matrices and the output head.

    Not the embedding lookup, and of a mixture no more experts than a token is sent to.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    matrices = {id(p): p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings}
    if isinstance(head, nn.Linear):
        matrices[id(head.weight)] = head.weight.numel()
    return sum(matrices.values()) - sum(idle_parameters(model))


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
class Spread:
    """Seconds of several rounds: the median, the quartiles around it, and the rounds themselves."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...] = ()

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        """Return the spread of at least two rounds."""
        low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Spread(middle, low, high, tuple(seconds))


@dataclass(frozen=True)
class Latency:
    """Seconds to prefill a prompt of `num_prompt_tokens`, and to decode one more token, batch 1: medians with their quartiles."""

    num_prompt_tokens: int
    num_rounds: int
    prefill: Spread
    decode: Spread

    @property
    def prefill_seconds(self) -> float:
        """Median seconds to prefill."""
        return self.prefill.median

    @property
    def decode_seconds_per_token(self) -> float:
        """Median seconds to decode a token."""
        return self.decode.median


def measure_in_turns(
    runners: Sequence[CausalRunner],
    *,
    vocab_size: int,
    num_prompt_tokens: int = 128,
    num_new_tokens: int = 32,
    num_rounds: int = 3,
    on_round: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time prefill and decode of models on random tokens. See `time_in_turns`."""
    return time_in_turns(
        [timer_of(runner) for runner in runners],
        vocab_size=vocab_size,
        num_prompt_tokens=num_prompt_tokens,
        num_new_tokens=num_new_tokens,
        num_rounds=num_rounds,
        on_round=on_round,
    )


def timer_of(runner: CausalRunner) -> Timer:
    """Return what times a model once."""
    return partial(_time_once, runner)


def time_in_turns(
    timers: Sequence[Timer],
    *,
    vocab_size: int,
    num_prompt_tokens: int = 128,
    num_new_tokens: int = 32,
    num_rounds: int = 3,
    on_round: Callable[[], None] = lambda: None,
) -> list[Latency]:
    """Time prefill and decode on random tokens. In each round every timer has its turn, and what the machine does meanwhile meets all.

    The first round warms up and is not counted.
    """
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(vocab_size, (1, num_prompt_tokens), generator=generator)
    rounds: list[list[tuple[float, float]]] = [[] for _ in timers]
    for _ in range(num_rounds + 1):
        for timer, own in zip(timers, rounds, strict=True):
            own.append(timer(prompt, num_new_tokens))
        on_round()
    timed = [tuple(zip(*own[1:], strict=True)) for own in rounds]
    return [Latency(num_prompt_tokens, num_rounds, Spread.of(prefill), Spread.of(decode)) for prefill, decode in timed]


def _time_once(runner: CausalRunner, prompt: torch.Tensor, num_new_tokens: int) -> tuple[float, float]:
    prompt = prompt.to(runner.device)
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
