"""What rounding the weights costs: KL from the float model to the written one over the float model's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.compressors.measure.closeness import closeness
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import CausalRunner
from attar.stages.quantize.recorded_runner import RecordedRunner
from attar.stages.runtime.progress import bar, metric, note


@dataclass(frozen=True)
class Rounding:
    """What rounding the weights cost over the float model's answers. KL in nats a token; share of tokens at which both agree."""

    kl_nats: float
    agreement: float


@dataclass(frozen=True)
class FloatAnswers:
    """What the float model wrote to the prompts, and its logits over them, on disk."""

    pairs: list[Pair]
    recorded: RecordedRunner


def record_answers(
    original: CausalRunner, prompts: Sequence[Sequence[int]], num_new_tokens: int, scratch: Path
) -> FloatAnswers:
    """Let the float model answer, before its weights are rounded in place."""
    counter = bar("asking the original", 2 * len(prompts), "prompts")
    texts = decode(original, prompts, max_new_tokens=num_new_tokens, stop_ids=(), on_finished=counter.advance)
    pairs: list[Pair] = [(list(prompt), text.token_ids) for prompt, text in zip(prompts, texts, strict=True)]
    return FloatAnswers(pairs, RecordedRunner(original, pairs, scratch, counter.advance))


def measure_rounding(rounded: CausalRunner, answers: FloatAnswers, *, weights: str, max_kl_nats: float) -> Rounding:
    """Return what rounding to `weights` costs. Raises ValueError past the limit, in nats a token."""
    counter = bar("measuring the rounding", len(answers.pairs), "prompts")
    sums = closeness(rounded, answers.recorded, answers.pairs, batch_size=1, on_scored=counter.advance)
    num_tokens = sum(text.num_tokens for text in sums)
    rounding = Rounding(
        sum(text.kl_nats for text in sums) / num_tokens, sum(text.num_agreeing for text in sums) / num_tokens
    )
    metric("kl_nats", rounding.kl_nats)
    note(
        f"rounding: KL {rounding.kl_nats:.2g} nats a token, greedy agreement {rounding.agreement:.1%}, {num_tokens} tokens"
    )
    if not rounding.kl_nats <= max_kl_nats:  # False for what is no number
        raise ValueError(
            f"rounding to {weights} costs {rounding.kl_nats:.3g} nats a token; accepted: {max_kl_nats:g} or less"
        )
    return rounding
