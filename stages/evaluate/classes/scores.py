"""The figures of classifiers and taggers with their intervals. Ratios to another's are in pairs where both were asked the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic

import numpy as np

from attar.compressors.measure.classes import (
    Predictions,
    S,
    SpanCounts,
    calibration_error,
    estimate,
    macro_f1,
    macro_span_f1,
    mean_nats,
    ratio,
    span_f1,
    span_precision,
    span_recall,
    word_accuracy,
)
from attar.compressors.measure.paired import mean_share, share
from attar.registry.release.figures import QUESTIONS
from attar.registry.release.gate import Ratio
from attar.stages.evaluate.rankings import interval_ratio, known_figures, time_figures


@dataclass(frozen=True)
class Scores(Generic[S]):
    """What is told of models of a kind. `column`: of an evaluation, what was made of the rows. `figures`: what rows score, by name.

    `main`: the figure that is told of each task and as a ratio. `rows`: what its interval draws anew.
    """

    column: str
    read: Callable[[Mapping[str, Any]], S]
    figures: Mapping[str, Callable[[S], float]]
    main: str
    rows: str

    def sets(self, evaluation: Mapping[str, Any]) -> dict[str, S]:
        """Return what was made of each task's rows; nothing of an evaluation of other models."""
        return {name: self.read(columns) for name, columns in (evaluation.get(self.column) or {}).items()}


def _predictions(columns: Mapping[str, Any]) -> Predictions:
    whole = {name: np.asarray(columns[name], int) for name in ("labels", "predicted")}
    return Predictions(**whole, confidence=np.asarray(columns["confidence"]), nats=np.asarray(columns["nats"]))


def _counts(columns: Mapping[str, Any]) -> SpanCounts:
    return SpanCounts(**{name: np.asarray(column, int) for name, column in columns.items()})


CLASSES = Scores(
    "classes",
    _predictions,
    {"macro_f1": macro_f1, "calibration_error": calibration_error, "label_nats": mean_nats},
    main="macro_f1",
    rows="rows",
)
SPANS = Scores(
    "spans",
    _counts,
    {
        "span_f1": span_f1,
        "span_precision": span_precision,
        "span_recall": span_recall,
        "macro_span_f1": macro_span_f1,
        "token_accuracy": word_accuracy,
    },
    main="span_f1",
    rows="texts",
)


MEASURED: tuple[Scores[Any], ...] = (CLASSES, SPANS)


def class_headline(scores: Scores[Any], evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers by name. `accuracy` and the kind's figures over all tasks, `accuracy_NAME` and the main one of each; sizes, times."""
    numbers = time_figures(evaluation)
    right = evaluation["right"]
    numbers |= known_figures("accuracy", mean_share(list(right.values())))
    numbers[QUESTIONS] = float(sum(map(len, right.values())))
    sets = scores.sets(evaluation)
    for measure, score in scores.figures.items():
        numbers |= known_figures(measure, estimate(score, list(sets.values())))
    for name, some in sets.items():
        numbers |= known_figures(f"accuracy_{name}", share(right[name]))
        numbers[f"{QUESTIONS}_{name}"] = float(len(right[name]))
        main = estimate(scores.figures[scores.main], [some]) if len(sets) > 1 else None
        numbers |= known_figures(f"{scores.main}_{name}", main) if main is not None else {}
    return numbers


def class_ratios(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Ratio]:
    """Return candidate / baseline of the main figures where both were asked the same; nothing of other models."""
    ratios: dict[str, Ratio] = {}
    for scores in MEASURED:
        own, other = scores.sets(candidate), scores.sets(baseline)
        if own and other and candidate.get("asked") == baseline.get("asked"):
            above, below = list(own.values()), [other[name] for name in own]
            count = sum(len(some.right) for some in above)
            known = ratio(scores.figures[scores.main], above, below)
            ratios[scores.main] = interval_ratio(known, f"{count} {scores.rows}")
    return ratios


def columns_of(made: Any) -> dict[str, list[Any]]:
    """Return what was made of rows as an evaluation keeps it."""
    return {entry.name: np.asarray(getattr(made, entry.name)).tolist() for entry in fields(made)}
