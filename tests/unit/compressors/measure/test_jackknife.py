"""Predictions with intervals: exact where the past is a line, and as wide as the past was wrong, in the project's own study too."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attar.compressors.measure.jackknife import Regressor

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results"


def test_a_line_is_predicted_and_too_few_cases_promise_nothing() -> None:
    features = np.arange(12.0)[:, None]
    known = Regressor(features, 3 + 2 * features[:, 0])
    predicted = known.predict(np.array([20.0]))
    assert predicted.value == pytest.approx(43, abs=0.5) and predicted.low <= predicted.value <= predicted.high
    few = Regressor(features[:8], features[:8, 0]).predict(np.array([3.0]))
    assert math.isinf(few.low) and math.isinf(few.high)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """90% of 200 new cases, and never below the 80% that the jackknife+ guarantees."""
    generator, num_held = np.random.default_rng(0), 0
    for _ in range(200):
        features = generator.normal(size=(21, 3))
        targets = features @ [1.0, -0.5, 0.0] + generator.normal(0, 0.3, 21)
        predicted = Regressor(features[:20], targets[:20]).predict(features[20])
        num_held += predicted.low <= targets[20] <= predicted.high
    assert 168 <= num_held <= 194


def study(figure: str) -> tuple[np.ndarray, np.ndarray]:
    """The recovery study: blocks removed and arm of each student, and the logarithm of a figure."""
    cases: list[tuple[int, str, float]] = []
    for name in ("recovery-2-4-6-8-10", "recovery-6"):
        for table in json.loads((RESULTS / f"{name}.json").read_text())["tables"]:
            if not table["title"].endswith(("seed 0", "seed 1", "seed 2")) or figure not in table["columns"]:
                continue
            size, column = int(table["title"].split()[0]), table["columns"].index(figure)
            cases += [(size, row[0], float(row[column].split()[0])) for row in table["rows"] if row[column]]
    arms = sorted({arm for _, arm, _ in cases})
    features = [[float(size), *(float(arm == name) for name in arms)] for size, arm, _ in cases]
    return np.array(features), np.log([value for _, _, value in cases])


@pytest.mark.parametrize("figure", ["kl_nats wikitext_test", "kl_nats own_answers"])
def test_leaving_each_of_our_own_study_runs_out_intervals_cover_it(figure: str) -> None:
    """90% intervals of a student that was left out: at least 80% cover what came."""
    features, targets = study(figure)
    assert len(targets) > 30
    covered = 0
    for index in range(len(targets)):
        used = np.arange(len(targets)) != index
        predicted = Regressor(features[used], targets[used]).predict(features[index])
        covered += predicted.low <= targets[index] <= predicted.high
    assert covered >= 0.8 * len(targets)
