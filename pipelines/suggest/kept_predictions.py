"""What past runs predicted of a run's models, and what came. It is kept in the run's folder, so that the planner's intervals can be believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attar.pipelines.suggest.budget import FIGURES
from attar.pipelines.suggest.evidence import Case, cases_of
from attar.pipelines.suggest.planner import MIN_CASES, Predictor
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import PREDICTIONS, RunRecord


@dataclass(frozen=True)
class Prediction:
    """A figure of a model: what was predicted with a 90% interval, from so many models, and what came."""

    model: str
    figure: str
    predicted: float
    low: float
    high: float
    came: float
    num_cases: int

    @property
    def is_within(self) -> bool:
        """Whether what came lies in the interval."""
        return self.low <= self.came <= self.high

    def as_row(self) -> dict[str, Any]:
        """Return the prediction as a row of a table."""
        return {**asdict(self), "within": "yes" if self.is_within else "no"}


def keep_predictions(record: RunRecord, records: Sequence[RunRecord], store: Store) -> list[Prediction]:
    """Write and return what the other runs so far predict of a run's models, figure by figure."""
    before = [other for other in records if other.id != record.id]
    predictions = predictions_of(cases_of([record], store), cases_of(before, store))
    if predictions:
        content = json.dumps([prediction.as_row() for prediction in predictions], indent=1)
        write_synced(record.folder / PREDICTIONS, content)
    return predictions


def predictions_of(cases: Sequence[Case], known: Sequence[Case]) -> list[Prediction]:
    """Return what the known models predict of others. A model that is among them, by recipe and settings, is no test of a prediction."""
    seen = [(case.recipe, case.model, dict(case.settings)) for case in known]
    predictions = []
    for figure in FIGURES:
        evidence = [case for case in known if figure in case.figures]
        new = [case for case in cases if (case.recipe, case.model, dict(case.settings)) not in seen]
        if len(evidence) < MIN_CASES or not any(figure in case.figures for case in new):
            continue
        predictor = Predictor.of(evidence, [figure])
        for case in new:
            if figure in case.figures:
                estimate = predictor.predict(case.settings, case.stages)[figure]
                ends = (estimate.value, estimate.low, estimate.high)
                predictions.append(Prediction(case.model, figure, *ends, case.figures[figure], len(evidence)))
    return sorted(predictions, key=lambda prediction: prediction.model)


def kept_predictions(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the predictions that were kept beside runs, as rows."""
    files = [record.folder / PREDICTIONS for record in records]
    return [row for file in files if file.is_file() for row in json.loads(file.read_text())]


def calibration(rows: Sequence[dict[str, Any]]) -> str:
    """Return in a line how often what came lay within the intervals. Empty where nothing was predicted yet."""
    if not rows:
        return ""
    num_within = sum(row["within"] == "yes" for row in rows)
    return f"of {len(rows)} figures predicted before their runs, {num_within} ({num_within / len(rows):.0%}) came within their 90% intervals"
