"""The figures of a classifier's evaluation with their intervals. Ratios to another's are in pairs where both were asked the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attar.compressors.measure.classes import (
    Predictions,
    calibration_error,
    estimate,
    macro_f1,
    mean_nats,
    ratio,
)
from attar.compressors.measure.paired import mean_share, share
from attar.registry.release.figures import QUESTIONS
from attar.registry.release.gate import Ratio
from attar.stages.evaluate.rankings import interval_ratio, known_figures, time_figures

# Figures with an interval of rows drawn anew: name -> what rows score.
SCORES = {"macro_f1": macro_f1, "calibration_error": calibration_error, "label_nats": mean_nats}


def classifier_headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers by name: `accuracy`, `macro_f1`, `calibration_error`, `label_nats` over all tasks and `NAME_TASK`; sizes, times."""
    numbers = time_figures(evaluation)
    right = evaluation["right"]
    numbers |= known_figures("accuracy", mean_share(list(right.values())))
    numbers[QUESTIONS] = float(sum(map(len, right.values())))
    by_task = {name: _of_columns(some) for name, some in evaluation["classes"].items()}
    for measure, score in SCORES.items():
        numbers |= known_figures(measure, estimate(score, list(by_task.values())))
    for name, some in by_task.items():
        numbers |= known_figures(f"accuracy_{name}", share(right[name]))
        numbers[f"{QUESTIONS}_{name}"] = float(len(right[name]))
        numbers |= known_figures(f"macro_f1_{name}", estimate(macro_f1, [some])) if len(by_task) > 1 else {}
    return numbers


def classifier_ratios(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Ratio]:
    """Return candidate / baseline of macro F1 where both were asked the same; nothing of other models."""
    own, other = candidate.get("classes") or {}, baseline.get("classes") or {}
    if not own or not other or candidate.get("asked") != baseline.get("asked"):
        return {}
    above, below = ([_of_columns(some[name]) for name in own] for some in (own, other))
    count = sum(len(some.labels) for some in above)
    return {"macro_f1": interval_ratio(ratio(macro_f1, above, below), f"{count} rows")}


def columns_of(predictions: Predictions) -> dict[str, list[float]]:
    """Return predictions as an evaluation keeps them."""
    return {name: np.asarray(getattr(predictions, name)).tolist() for name in Predictions.__dataclass_fields__}


def _of_columns(columns: Mapping[str, Sequence[float]]) -> Predictions:
    whole = {name: np.asarray(columns[name], int) for name in ("labels", "predicted")}
    return Predictions(**whole, confidence=np.asarray(columns["confidence"]), nats=np.asarray(columns["nats"]))
