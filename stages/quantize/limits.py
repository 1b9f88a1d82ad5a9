"""What a quantized model may lose, measured against the model it came from on held-out text. Past a limit the stage fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from attar.compressors.data.prompts import text_windows
from attar.compressors.measure.closeness import closeness
from attar.compressors.measure.cost import Timer, time_in_turns, timer_of
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.runner import CausalRunner
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.measured_data import plain_text, question_rows
from attar.stages.artifacts.dataset.prompts import row_prompt, row_reference
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.quantize.recorded_runner import RecordedRunner
from attar.stages.runtime.described import DescribedModel
from attar.stages.runtime.progress import bar, metric, note

NUM_TIMED_ROUNDS = 5


class Limits(DescribedModel):
    """Limits of the loss; each is checked on held-out text."""

    kind: Literal["text"] = "text"
    """Of a causal model: of what it says next."""

    max_kl_nats: float = Field(gt=0.0)
    """KL from the original to the quantized model, nats a token."""

    min_agreement: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of tokens at which both would greedily say the same, in [0, 1]."""

    max_perplexity_ratio: float = Field(default=math.inf, gt=0.0, allow_inf_nan=True)
    """Perplexity of the quantized model / that of the original."""

    max_size_fraction: float = Field(default=1.0, gt=0.0)
    """Size on disk / that of the original."""


class VectorLimits(DescribedModel):
    """Limits of an encoder's loss; each is checked on held-out text."""

    kind: Literal["vectors"]
    """Of an encoder: of its vectors."""

    max_cosine_distance: float = Field(gt=0.0)
    """1 - cosine of the quantized encoder's vector of a text to the original's, mean over the texts."""

    max_size_fraction: float = Field(default=1.0, gt=0.0)
    """Size on disk / that of the original."""


class ClassLimits(DescribedModel):
    """Limits of a classifier's or tagger's loss; each is checked on held-out rows."""

    kind: Literal["classes"]
    """Of a classifier or tagger: of its distributions over classes."""

    max_kl_nats: float = Field(gt=0.0)
    """KL from the original's distribution over classes to the quantized model's, nats a row (of a tagger, a token), mean."""

    min_agreement: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of rows (of a tagger, of tokens) that both put into the same class, in [0, 1]."""

    max_size_fraction: float = Field(default=1.0, gt=0.0)
    """Size on disk / that of the original."""


@dataclass(frozen=True)
class Quality:
    """A quantized model beside its original: nats a token, shares, bytes, seconds."""

    kl_nats: float
    agreement: float
    perplexity: float
    original_perplexity: float
    num_tokens: int
    size_fraction: float
    # medians of rounds in which both had their turn, and the quartiles around them; None where the original is no model to be timed
    decode_seconds_per_token: float | None = None
    decode_seconds_per_token_low: float | None = None
    decode_seconds_per_token_high: float | None = None
    original_decode_seconds_per_token: float | None = None
    original_decode_seconds_per_token_low: float | None = None
    original_decode_seconds_per_token_high: float | None = None

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of the quantized model / the original's."""
        return self.perplexity / self.original_perplexity

    def facts(self) -> dict[str, float]:
        """Return the numbers by name, those that were measured."""
        numbers = {**asdict(self), "perplexity_ratio": self.perplexity_ratio}
        return {name: value for name, value in numbers.items() if value is not None}


def heldout_pairs(
    folder: Path, data: DatasetArtifact, text: DatasetArtifact | None, max_rows: int, max_tokens: int
) -> list[Pair]:
    """Return held-out questions with their answers, and windows of the text, as (context, continuation)."""
    tokenizer = load_tokenizer(folder)
    pairs: list[Pair] = [
        (row_prompt(tokenizer, row), row_reference(tokenizer, row)[:max_tokens])
        for row in question_rows(data, max_rows)
    ]
    if text is not None:
        windows = text_windows(tokenizer, plain_text(text), max_tokens)[: max_rows or None]
        pairs += [(context, window) for context, window in windows if window]
    if not pairs:
        raise ValueError("input data: no row has a question to measure the loss on; give the input text")
    return pairs


@dataclass(frozen=True)
class Original:
    """What the model said to the pairs before it was quantized, on disk. `reopen` gives it once more, to be timed; None: it is not."""

    pairs: list[Pair]
    recorded: RecordedRunner
    reopen: Callable[[], CausalRunner] | None
    vocab_size: int


def ask_original(
    runner: CausalRunner,
    pairs: list[Pair],
    *,
    scratch: Path,
    vocab_size: int,
    reopen: Callable[[], CausalRunner] | None,
) -> Original:
    """Ask the original. Then it can leave the memory: what it said to the pairs lies in `scratch`."""
    counter = bar("asking the original", len(pairs), "texts")
    recorded = RecordedRunner(runner, pairs, scratch, counter.advance)
    return Original(pairs, recorded, reopen, vocab_size)


def measure_quality(quantized: CausalRunner, original: Original, *, size_fraction: float) -> Quality:
    """Compare the quantized model with what the original said, and time both in turns; record the numbers as metrics."""
    pairs = original.pairs
    counter = bar("measuring the loss", len(pairs), "texts")
    texts = closeness(quantized, original.recorded, pairs, batch_size=1, on_scored=counter.advance)
    num_tokens = sum(text.num_tokens for text in texts)
    quality = Quality(
        kl_nats=sum(text.kl_nats for text in texts) / num_tokens,
        agreement=sum(text.num_agreeing for text in texts) / num_tokens,
        perplexity=math.exp(sum(text.loss_nats for text in texts) / num_tokens),
        original_perplexity=math.exp(sum(text.original_loss_nats for text in texts) / num_tokens),
        num_tokens=num_tokens,
        size_fraction=size_fraction,
        **(decode_seconds(timer_of(quantized), original.reopen(), original.vocab_size) if original.reopen else {}),
    )
    for name, value in quality.facts().items():
        metric(name, value)
    note(
        f"KL {quality.kl_nats:.2g} nats a token, greedy agreement {quality.agreement:.1%}, perplexity "
        f"x{quality.perplexity_ratio:.3f} over {num_tokens} tokens; {size_fraction:.3f} of the size"
    )
    return quality


def broken_limits(limits: Limits, quality: Quality) -> list[str]:
    """Return each limit that does not hold, with what was measured."""
    checks = (
        ("KL", quality.kl_nats, "<=", limits.max_kl_nats),
        ("greedy agreement", quality.agreement, ">=", limits.min_agreement),
        ("perplexity ratio", quality.perplexity_ratio, "<=", limits.max_perplexity_ratio),
        ("size fraction", quality.size_fraction, "<=", limits.max_size_fraction),
    )
    return [
        f"{name} {value:.4g}, accepted {sign} {limit:g}"
        for name, value, sign, limit in checks
        if not (value <= limit if sign == "<=" else value >= limit)
    ]


def decode_seconds(timer: Timer, original: CausalRunner, vocab_size: int) -> dict[str, float]:
    """Return seconds a token of what `timer` times and of the original, by the names of facts. Medians of rounds, and the quartiles.

    Each round gives both their turn, so that what the machine does meanwhile meets both.
    """
    rounds = bar("timing both", NUM_TIMED_ROUNDS + 1, "rounds")
    spreads = time_in_turns(
        [timer, timer_of(original)],
        vocab_size=vocab_size,
        num_prompt_tokens=32,
        num_new_tokens=16,
        num_rounds=NUM_TIMED_ROUNDS,
        on_round=rounds.advance,
    )
    seconds = {}
    for name, spread in zip(("decode_seconds_per_token", "original_decode_seconds_per_token"), spreads, strict=True):
        decode = spread.decode
        seconds |= {name: decode.median, f"{name}_low": decode.low, f"{name}_high": decode.high}
    return seconds
