"""The figures of an encoder's evaluation with their intervals. Ratios to another's are in pairs where both were asked the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attar.compressors.encode.early_exits import exit_name
from attar.compressors.measure.closeness import Estimate, ratio_of_sums
from attar.compressors.measure.ranking import Ranked, spearman_estimate, spearman_ratio
from attar.registry.release.figures import HIGH, LOW
from attar.registry.release.gate import Ratio

DEPTHS = (1, 10)
# Seconds for a single text, and for a batch of `BATCH` texts.
BATCH = 32
EMBED_TIMES = ("embed_seconds", f"embed_seconds_{BATCH}")
# And of images.
IMAGE_TIMES = ("image_seconds", f"image_seconds_{BATCH}")
# Figures of retrieval: name -> what a query scores.
SCORES = {
    "mrr": lambda ranking: ranking.reciprocal,
    "ndcg_10": lambda ranking: ranking.ndcg,
    **{f"recall_{depth}": (lambda ranking, depth=depth: ranking.recall(depth)) for depth in DEPTHS},
}


def encoder_headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers by name: `spearman`, `mrr`, `ndcg_10`, `recall_1`, `recall_10` over all tasks and `NAME_TASK` of each; sizes, times.

    Of the exits before the last the same under `exit_2_mrr` and so on.
    """
    numbers = {**time_figures(evaluation), **_quality(evaluation)}
    for depth, content in evaluation.get("exits", {}).items():
        numbers |= {f"{exit_name(depth)}_{name}": value for name, value in _quality(content).items()}
    return numbers


def _quality(evaluation: Mapping[str, Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    pairs = evaluation["pairs"]
    if pairs:
        numbers |= known_figures("spearman", spearman_estimate([_columns(some) for some in pairs.values()]))
        numbers["num_pairs"] = float(sum(len(some["cosines"]) for some in pairs.values()))
        for name, some in pairs.items():
            numbers |= known_figures(f"spearman_{name}", spearman_estimate([_columns(some)]))
    by_task = {name: _rankings(some) for name, some in evaluation["retrieval"].items()}
    for measure, score in SCORES.items():
        every = [score(ranking) for rankings in by_task.values() for ranking in rankings]
        if every:
            numbers |= known_figures(measure, ratio_of_sums(every, [1.0] * len(every)))
        for name, rankings in by_task.items():
            values = [score(ranking) for ranking in rankings]
            numbers |= known_figures(f"{measure}_{name}", ratio_of_sums(values, [1.0] * len(values)))
    if by_task:
        numbers["num_queries"] = float(sum(map(len, by_task.values())))
    return numbers


def time_figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the sizes and times of a model that reads whole texts."""
    numbers = {name: float(evaluation[name]) for name in ("num_parameters", "flops_per_token", "disk_bytes")}
    times = evaluation["latency"]
    numbers |= {name: float(times[name]) for name in times if name.startswith("embed_seconds")}
    return {**numbers, "texts_per_second": float(times["texts_per_second"])}


def encoder_ratios(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Ratio]:
    """Return candidate / baseline of rank correlation and retrieval, where both were asked the same; nothing of causal models."""
    if candidate.get("asked") != baseline.get("asked"):
        return {}
    ratios: dict[str, Ratio] = {}
    pairs, other_pairs = candidate.get("pairs") or {}, baseline.get("pairs") or {}
    if pairs and other_pairs:
        own, other = ([some[name]["cosines"] for name in pairs] for some in (pairs, other_pairs))
        graded = [some["similarities"] for some in pairs.values()]
        count = sum(map(len, graded))
        ratios["spearman"] = interval_ratio(spearman_ratio(own, other, graded), f"{count} pairs")
    retrieval, others = candidate.get("retrieval") or {}, baseline.get("retrieval") or {}
    for measure, score in SCORES.items() if retrieval and others else ():
        above, below = ([score(r) for name in retrieval for r in _rankings(some[name])] for some in (retrieval, others))
        ratios[measure] = interval_ratio(ratio_of_sums(above, below), f"{len(above)} queries")
    return ratios


def _columns(pairs: Mapping[str, Sequence[float]]) -> tuple[Sequence[float], Sequence[float]]:
    return pairs["cosines"], pairs["similarities"]


def _rankings(task: Mapping[str, Any]) -> list[Ranked]:
    return [Ranked(tuple(ranks)) for ranks in task["ranks"]]


def known_figures(name: str, estimate: Estimate) -> dict[str, float]:
    """Return an estimate and the ends of its interval by name, those that are numbers."""
    ends = {name + LOW: estimate.low, name + HIGH: estimate.high}
    known = {end: value for end, value in ends.items() if math.isfinite(value)}
    return ({name: float(estimate.value)} if np.isfinite(estimate.value) else {}) | known


def interval_ratio(estimate: Estimate, measured_on: str) -> Ratio:
    """Return a ratio with its interval and what it was measured on."""
    low, high = (end if math.isfinite(end) else None for end in (estimate.low, estimate.high))
    return Ratio(estimate.value, low, high, measured_on)
