"""A candidate's evaluation beside the baseline's: each ratio with its interval, in pairs where both were asked the same."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from attar.compressors.measure.closeness import Estimate, ratio_of_sums
from attar.compressors.measure.cost import MAX_APART
from attar.compressors.measure.paired import paired_retention, share
from attar.registry.artifacts.handles import Artifact
from attar.registry.release.figures import HIGH, LOW
from attar.registry.release.gate import Ratio
from attar.stages.evaluate.classes.scores import class_ratios
from attar.stages.evaluate.headline import TIMES, bits_per_byte
from attar.stages.evaluate.images.drawn import drawn_ratios
from attar.stages.evaluate.question_pairs import paired_right
from attar.stages.evaluate.rankings import EMBED_TIMES, IMAGE_TIMES, encoder_ratios
from attar.stages.evaluate.written import RESULT


def evaluation_of(artifact: Artifact) -> dict[str, Any]:
    """Return the content of an evaluation."""
    return json.loads((artifact.path / RESULT).read_text())


def paired_ratios(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Ratio]:
    """Return candidate / baseline by metric as far as an interval can be told; evaluations of earlier versions tell fewer."""
    ratios = {"accuracy": accuracy_ratio(candidate, baseline), "perplexity": _perplexity_ratio(candidate, baseline)}
    ratios |= encoder_ratios(candidate, baseline) | class_ratios(candidate, baseline)
    ratios |= drawn_ratios(candidate, baseline)
    ratios |= {name: _time_ratio(name, candidate, baseline) for name in (*TIMES, *EMBED_TIMES, *IMAGE_TIMES)}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def accuracy_ratio(candidate: Mapping[str, Any], baseline: Mapping[str, Any], task: str = "") -> Ratio | None:
    """Return the retention of the baseline's accuracy, over all tasks or in one; None where the questions are not known."""
    names = [task] if task else list(baseline.get("tasks", {}))
    pairs = [paired_right(candidate, baseline, name) for name in names]
    if pairs and all(pairs):
        known = [pair for pair in pairs if pair is not None]
        return _ratio(paired_retention(known), f"{sum(len(first) for first, _ in known)} questions")
    sides = [evaluation.get("right", {}) for evaluation in (candidate, baseline)]
    if not names or not all(side.get(name) for side in sides for name in names):
        return None
    estimate = _apart([(sides[0][name], sides[1][name]) for name in names])
    return _ratio(estimate, f"{sum(len(sides[1][name]) for name in names)} questions")


def _apart(pairs: list[tuple[list[float], list[float]]]) -> Estimate:
    """Return the ratio of two means over different questions: each end is what the ends of both shares give."""
    shares = [(share(first), share(second)) for first, second in pairs]
    above, below = ([sum(getattr(pair[i], end) for pair in shares) for end in ("value", "low", "high")] for i in (0, 1))
    value = above[0] / below[0] if below[0] else math.nan
    return Estimate(value, above[1] / below[2], above[2] / below[1] if below[1] else math.inf)


def _perplexity_ratio(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Ratio | None:
    candidate_pieces, baseline_pieces = candidate.get("text_pieces") or [], baseline.get("text_pieces") or []
    counts = [count for _, count in baseline_pieces]
    if not counts or candidate.get("text") != baseline.get("text"):
        return None
    if counts != [count for _, count in candidate_pieces]:
        return _ratio_of_other_tokens(candidate, baseline)
    rise = ratio_of_sums([a - b for (a, _), (b, _) in zip(candidate_pieces, baseline_pieces, strict=True)], counts)
    estimate = Estimate(math.exp(rise.value), math.exp(rise.low), math.exp(rise.high))
    return _ratio(estimate, f"{sum(counts)} tokens")


def _ratio_of_other_tokens(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Ratio | None:
    """Return the ratio on a text that the two cut otherwise: both per token of the baseline, so that more tokens cheapen nothing.

    Each end is what the ends of both losses give: there are no pairs.
    """
    sides = (candidate, baseline)
    if not all(side.get("text_pieces") and side.get("text_bytes") for side in sides):
        return None
    losses = [bits_per_byte(side["text_pieces"], side["text_bytes"]) for side in sides]
    num_bytes, num_tokens = baseline["text_bytes"], sum(count for _, count in baseline["text_pieces"])
    nats = math.log(2.0) * num_bytes / num_tokens
    rises = (
        losses[0].value - losses[1].value,
        losses[0].low - losses[1].high,
        losses[0].high - losses[1].low,
    )
    return _ratio(Estimate(*(math.exp(rise * nats) for rise in rises)), f"{num_bytes} bytes")


def _time_ratio(name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Ratio | None:
    times, baseline_times = candidate.get("latency", {}), baseline.get("latency", {})
    beside = times.get("beside", {})
    is_in_turns = bool(beside) and beside["model_fingerprint"] == baseline.get("model_fingerprint")
    baseline_times = beside if is_in_turns else baseline_times
    if name + LOW not in times or name + LOW not in baseline_times:
        return None
    value, conditions = times[name] / baseline_times[name], ("machine", "num_threads", "num_prompt_tokens")
    why = ""
    if not is_in_turns and any(times.get(key) != baseline_times.get(key) for key in conditions):
        why = "timed under other conditions than the original"
    elif _is_one_shape(candidate, baseline) and not 1 - MAX_APART <= value <= 1 / (1 - MAX_APART):
        why = "two models of one shape, and more than a third apart: the machine was busy"
    how = f"{times['num_rounds']} rounds, {'in turns' if is_in_turns else 'apart'}"
    return Ratio(
        value,
        times[name + LOW] / baseline_times[name + HIGH],
        times[name + HIGH] / baseline_times[name + LOW],
        how,
        why,
    )


def _is_one_shape(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    names = ("format", "num_parameters", "flops_per_token", "flops_per_image", "num_forwards")
    return all(candidate.get(name) == baseline.get(name) for name in names)


def _ratio(estimate: Estimate, measured_on: str) -> Ratio:
    low, high = (end if math.isfinite(end) else None for end in (estimate.low, estimate.high))
    return Ratio(estimate.value, low, high, measured_on)
