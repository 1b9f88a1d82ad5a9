"""What vectors before the prompt are worth. How near they bring a model to what it says behind the demonstrations, and how soon."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from attar.compressors.distill.teachers.contexts import ContextParts
from attar.compressors.measure.closeness import TextCloseness, closeness_behind, ratio_of_sums
from attar.compressors.measure.cost import Spread
from attar.compressors.models.runner import CausalRunner, PrefixedRunner
from attar.compressors.models.slots import pad_right
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import PrefixArtifact
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt, wording_of
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.prefix.folder import read_stood_for, refuse_unfitting
from attar.stages.runtime.progress import bar, note

# Questions whose prompts are read in a timed round, and rounds behind the one that warms up.
NUM_TIMED_PROMPTS, NUM_ROUNDS = 3, 5
# What is read before a question: the vectors, the demonstrations that they stand for, nothing.
VECTORS, DEMONSTRATIONS, NONE = "vectors", "demonstrations", "none"


def check_prefix(inputs: Mapping[str, tuple[Facts, ...]], *, is_served: bool) -> None:
    """Raise ValueError for a prefix that the model cannot read, or beside what is measured without it."""
    for prefix in inputs.get("prefix", ()):
        refuse_unfitting(prefix, inputs["model"][0])
        if not inputs.get("tasks"):
            raise ValueError(
                "prefix: its distance to the demonstrations is measured on questions; give the input tasks"
            )
        if inputs.get("original") or is_served:
            field = "the input original" if inputs.get("original") else "timing.served"
            raise ValueError(f"prefix: a draft and a server read no vectors before the prompt; leave {field} out")


def prefix_figures(
    runner: PrefixedRunner, prefix: PrefixArtifact, rows: Sequence[Row], tokenizer: Any
) -> dict[str, Any]:
    """Return KL(demonstrations || vectors) and with nothing, in nats a token of the answers, and seconds to read a prompt.

    Rows that are among the demonstrations are left out. Raises ValueError where none is left.
    """
    stood_for, wording = read_stood_for(prefix), wording_of(tokenizer)
    shown = {question for question, _ in stood_for.shown.pairs}
    questions = [row for row in rows if row.answer and row.question not in shown]
    if not questions:
        raise ValueError("prefix: every question is among its demonstrations, or none has an answer; give other tasks")
    prompts = [row_prompt(tokenizer, row) for row in questions]
    answers = [row_answer(tokenizer, row) for row in questions]
    contexts = [
        stood_for.context(ContextParts(row.question, prompt, answer, demonstrations=stood_for.shown.pairs), wording)
        or prompt
        for row, prompt, answer in zip(questions, prompts, answers, strict=True)
    ]
    counter = bar("comparing with the demonstrations", len(questions), "questions")
    behind, alone = closeness_behind(
        [(runner, prompts), (runner.runner, prompts)],
        runner.runner,
        list(zip(contexts, answers, strict=True)),
        on_scored=counter.advance,
    )
    figures = {
        "num_questions": len(questions),
        "num_vectors": len(runner.prefix_ids),
        "num_demonstrations": len(shown),
        VECTORS: _closeness(behind),
        NONE: _closeness(alone),
        "closed_fraction": 1.0 - _total(behind) / _total(alone) if _total(alone) else 0.0,
        "prefill": _prefill(runner, prompts[:NUM_TIMED_PROMPTS], contexts[:NUM_TIMED_PROMPTS]),
    }
    seconds = {name: spread["median"] for name, spread in figures["prefill"].items()}
    note(
        f"KL to the model with demonstrations: {figures[VECTORS]['kl_nats']['value']:.4f} nats a token behind the vectors, "
        f"{figures[NONE]['kl_nats']['value']:.4f} behind nothing; a prompt is read in {1e3 * seconds[VECTORS]:.1f} ms, with demonstrations in "
        f"{1e3 * seconds[DEMONSTRATIONS]:.1f}, with nothing in {1e3 * seconds[NONE]:.1f}"
    )
    return figures


def prefix_headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that tables compare. KL behind the vectors and behind nothing with their ends, the share of the gap, seconds."""
    numbers: dict[str, float] = {"prefix_gap_closed": figures["closed_fraction"]}
    for name, kind in (("prefix_kl_nats", VECTORS), ("no_prefix_kl_nats", NONE)):
        estimate = figures[kind]["kl_nats"]
        numbers |= {name: estimate["value"], name + LOW: estimate["low"], name + HIGH: estimate["high"]}
    numbers |= {f"prefill_seconds_{name}": spread["median"] for name, spread in figures["prefill"].items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}  # an interval of one row is none


def _total(texts: Sequence[TextCloseness]) -> float:
    return sum(text.kl_nats for text in texts)


def _closeness(texts: Sequence[TextCloseness]) -> dict[str, Any]:
    counts = [text.num_tokens for text in texts]
    return {
        "kl_nats": asdict(ratio_of_sums([text.kl_nats for text in texts], counts)),
        "loss_nats": asdict(ratio_of_sums([text.loss_nats for text in texts], counts)),
        "loss_nats_demonstrations": asdict(ratio_of_sums([text.original_loss_nats for text in texts], counts)),
        "agreement": sum(text.num_agreeing for text in texts) / sum(counts),
    }


@torch.inference_mode()
def _prefill(
    runner: PrefixedRunner, prompts: Sequence[Sequence[int]], contexts: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Return seconds to read a prompt, a median with its quartiles, each way in turn in every round; the first is not counted."""
    ways: dict[str, tuple[CausalRunner, Sequence[Sequence[int]]]] = {
        VECTORS: (runner, prompts),
        DEMONSTRATIONS: (runner.runner, contexts),
        NONE: (runner.runner, prompts),
    }
    counter = bar("timing prompts", NUM_ROUNDS + 1, "rounds")
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(NUM_ROUNDS + 1):
        for name, (reader, texts) in ways.items():
            started = time.perf_counter()
            for text in texts:
                reader.forward(*pad_right([text], reader.device), None, last_only=True)[0].cpu()
            rounds[name].append((time.perf_counter() - started) / len(texts))
        counter.advance()
    spreads = {name: Spread.of(seconds[1:]) for name, seconds in rounds.items()}
    lengths = {name: sum(map(len, texts)) / len(texts) for name, (_, texts) in ways.items()}
    lengths[VECTORS] += len(runner.prefix_ids)
    return {
        name: {"median": spread.median, "low": spread.low, "high": spread.high, "num_tokens": lengths[name]}
        for name, spread in spreads.items()
    }
