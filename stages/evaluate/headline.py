"""The numbers of an evaluation that gates and tables compare. Each has what it was measured on and its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attar.compressors.measure.closeness import Estimate, ratio_of_sums
from attar.compressors.measure.likelihood import Piece, perplexity_of
from attar.compressors.measure.paired import mean_share, share
from attar.registry.release.figures import HIGH, LOW, QUESTIONS, TEXT_TOKENS
from attar.stages.artifacts.prefix.figures import prefix_headline
from attar.stages.evaluate.speculation import best_draft

# Figures that are times; the last is of models that fill masks.
TIMES = ("prefill_seconds", "decode_seconds_per_token", "text_seconds")
# And those of a served model, of each number of clients.
SERVED = ("tokens_per_second", "request_seconds")


def headline_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers by name: `accuracy`, its ends `accuracy_low` and `accuracy_high`, `num_questions`; and so for the others."""
    sizes = ("num_parameters", "flops_per_token", "disk_bytes", "memory_bytes")
    numbers = {name: evaluation[name] for name in sizes if name in evaluation}
    times = evaluation["latency"]
    numbers |= {key: times[key] for name in TIMES for key in (name, name + LOW, name + HIGH) if key in times}
    if evaluation["perplexity"] is not None:
        pieces = evaluation["text_pieces"]
        numbers |= figure_with_ends("perplexity", perplexity_estimate(pieces))
        numbers[TEXT_TOKENS] = sum(count for _, count in pieces)
        if evaluation.get("text_bytes"):  # evaluations of earlier versions did not count them
            numbers |= figure_with_ends("bits_per_byte", bits_per_byte(pieces, evaluation["text_bytes"]))
    if tasks := evaluation["tasks"]:
        right = evaluation["right"]
        numbers |= figure_with_ends(
            "accuracy", mean_share([right[name] for name in tasks]) if all(map(right.get, tasks)) else None
        )
        numbers["accuracy"] = sum(tasks.values()) / len(tasks)
        numbers |= _counted(QUESTIONS, sum(len(right[name]) for name in tasks))
        for name, value in tasks.items():
            numbers |= figure_with_ends(f"accuracy_{name}", share(right[name]) if right[name] else None)
            numbers[f"accuracy_{name}"] = value
            numbers |= _counted(f"{QUESTIONS}_{name}", len(right[name]))
    if evaluation.get("served"):
        numbers |= served_headline(evaluation["served"])
    if evaluation.get("prefix"):
        numbers |= prefix_headline(evaluation["prefix"])
    if evaluation.get("speculation"):
        numbers |= best_draft(evaluation["speculation"])
    return {name: float(value) for name, value in numbers.items()}


def served_headline(served: Mapping[str, Any]) -> dict[str, float]:
    """Return `served_tokens_per_second_4` and `served_request_seconds_4` with their quartiles, and so for each number of clients."""
    return {
        f"served_{name}_{clients}{end}": figures[name + end]
        for clients, figures in served["clients"].items()
        for name in SERVED
        for end in ("", LOW, HIGH)
    }


def perplexity_estimate(pieces: Sequence[Piece]) -> Estimate:
    """Return the perplexity with the interval that drawing the pieces of its text anew gives."""
    loss = ratio_of_sums([nats for nats, _ in pieces], [count for _, count in pieces])
    return Estimate(perplexity_of(pieces), math.exp(loss.low), math.exp(loss.high))


def bits_per_byte(pieces: Sequence[Piece], num_bytes: int) -> Estimate:
    """Return the bits that a byte of the text costs, with their interval. So the same text in other tokens compares."""
    loss = ratio_of_sums([nats for nats, _ in pieces], [count for _, count in pieces])
    scale = sum(count for _, count in pieces) / num_bytes / math.log(2.0)
    return Estimate(loss.value * scale, loss.low * scale, loss.high * scale)


def _counted(name: str, count: int) -> dict[str, float]:
    """Return a count; nothing for a group of lm-eval's, which names no questions of its own."""
    return {name: count} if count else {}


def figure_with_ends(name: str, estimate: Estimate | None) -> dict[str, float]:
    """Return a figure and the ends of its interval by name, where they are numbers. Nothing of what is not known."""
    if estimate is None:
        return {}
    ends = {name + LOW: estimate.low, name + HIGH: estimate.high}
    return {name: estimate.value} | {end: value for end, value in ends.items() if math.isfinite(value)}
