"""The figures of an image classifier's evaluation with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attar.compressors.measure.closeness import Estimate
from attar.compressors.measure.paired import mean_share, share
from attar.registry.release.figures import HIGH, LOW, QUESTIONS
from attar.stages.evaluate.images.classification import (
    MAX_AREA_CLASSES,
    Classified,
    area,
    calibration_error,
    estimated,
    macro_accuracy,
    tail_accuracy,
)


def image_headline(
    evaluation: Mapping[str, Any], classified: Mapping[str, Classified], counts: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Return the numbers by name, over all tasks and of each. Accuracy, by class and of rare classes, area under the curve, calibration."""
    numbers = {name: float(evaluation[name]) for name in ("num_parameters", "flops_per_image", "disk_bytes")}
    times = evaluation["latency"]
    numbers |= {name: float(times[name]) for name in times if name.startswith("image_seconds") and "rounds" not in name}
    numbers["images_per_second"] = float(times["images_per_second"])
    right = evaluation["right"]
    numbers |= known("accuracy", mean_share(list(right.values())))
    numbers[QUESTIONS] = float(sum(map(len, right.values())))
    for name, some in right.items():
        numbers |= known(f"accuracy_{name}", share(some))
        numbers[f"{QUESTIONS}_{name}"] = float(len(some))
    for measure, values in _measures(classified, counts).items():
        for name, estimate in values.items():
            numbers |= known(f"{measure}_{name}", estimate)
        if len(values) == 1:  # of several data sets each stands for itself
            numbers |= known(measure, next(iter(values.values())))
    return numbers


def _measures(
    classified: Mapping[str, Classified], counts: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Estimate]]:
    measures: dict[str, dict[str, Estimate]] = {
        "macro_accuracy": {name: estimated(rows, macro_accuracy) for name, rows in classified.items()},
        "calibration_error": {name: estimated(rows, calibration_error) for name, rows in classified.items()},
    }
    uneven = {name: rows for name, rows in classified.items() if len(set(counts[name])) > 1}
    if uneven:
        measures["tail_accuracy"] = {
            name: estimated(rows, lambda drawn, own=counts[name]: tail_accuracy(drawn, own))  # type: ignore[misc]
            for name, rows in uneven.items()
        }
    few = {name: rows for name, rows in classified.items() if rows.logprobs.shape[1] <= MAX_AREA_CLASSES}
    if few:
        measures["auroc"] = {name: estimated(rows, area) for name, rows in few.items()}
    return measures


def known(name: str, estimate: Estimate) -> dict[str, float]:
    """Return a figure and the ends of its interval by name, those that are numbers."""
    values = {name: estimate.value, name + LOW: estimate.low, name + HIGH: estimate.high}
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}
