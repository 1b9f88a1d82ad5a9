"""Intervals of retention: they hold the truth as often as they say, and narrow with the number of questions."""

from __future__ import annotations

import random

import pytest

from attar.registry.release.retention import retention_rows


def evaluation(num_rows: int, **tasks: float) -> dict[str, dict[str, float]]:
    return {"tasks": tasks, "num_rows": dict.fromkeys(tasks, num_rows)}


def test_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """2,000 pairs of experiments with known shares: 95% intervals, standard error 0.5 points; 93 to 97.5 is four of them."""
    generator = random.Random(0)
    num_rows, candidate_rate, baseline_rate, num_held = 200, 0.6, 0.8, 0
    for _ in range(2000):
        drawn = [
            sum(generator.random() < share for _ in range(num_rows)) / num_rows
            for share in (candidate_rate, baseline_rate)
        ]
        [row] = retention_rows(evaluation(num_rows, t=drawn[0]), evaluation(num_rows, t=drawn[1]))
        num_held += row.low <= candidate_rate / baseline_rate <= row.high
    assert 0.93 <= num_held / 2000 <= 0.975


def test_more_questions_say_more() -> None:
    few, many = (retention_rows(evaluation(num_rows, t=0.5), evaluation(num_rows, t=0.8))[0] for num_rows in (25, 400))
    assert few.value == many.value == pytest.approx(0.625)
    assert few.low < many.low < many.value < many.high < few.high


def test_what_cannot_be_divided_is_left_out() -> None:
    before = evaluation(20, solved=0.5, never=0.0, gone=0.5)
    rows = retention_rows(evaluation(20, solved=0.0, never=0.5), before)
    assert [row.task for row in rows] == ["solved"]
    assert rows[0].low == 0.0 and rows[0].high == pytest.approx(0.15 / 0.5)
    assert retention_rows({"tasks": {"solved": 0.5}}, before) == [], (
        "an evaluation that did not count its questions has no interval"
    )
