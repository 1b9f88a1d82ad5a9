"""Retention and the gate by hand: Katz's interval as it is printed, and what a check says of itself."""

from __future__ import annotations

import math

import pytest

from attar.registry.release.gate import Check, run_gate
from attar.registry.release.retention import retention_rows


def evaluation(num_rows: int, **tasks: float) -> dict[str, dict[str, float]]:
    return {"tasks": tasks, "num_rows": dict.fromkeys(tasks, num_rows)}


@pytest.mark.parametrize(
    ("share", "baseline", "num_rows"), [(0.5, 0.8, 25), (0.9, 0.6, 400), (1.0, 1.0, 10), (0.04, 0.9, 25)]
)
def test_the_interval_is_katzs(share: float, baseline: float, num_rows: int) -> None:
    [row] = retention_rows(evaluation(num_rows, t=share), evaluation(num_rows, t=baseline))
    spread = 1.959964 * math.sqrt((1 - share) / (num_rows * share) + (1 - baseline) / (num_rows * baseline))
    assert (row.task, row.num_rows) == ("t", num_rows)
    assert row.value == pytest.approx(share / baseline)
    assert row.low == pytest.approx(share / baseline * math.exp(-spread), rel=1e-5)
    assert row.high == pytest.approx(share / baseline * math.exp(spread), rel=1e-5)


def test_nothing_right_of_few_questions_says_little() -> None:
    [row] = retention_rows(evaluation(2, t=0.0), evaluation(2, t=0.5))
    assert (row.value, row.low, row.high) == (0.0, 0.0, 2.0), "3 / n is more than all"


def test_each_task_has_its_row_and_its_own_number_of_questions() -> None:
    before = {"tasks": {"a": 0.5, "b": 0.25, "c": 0.5}, "num_rows": {"a": 10, "b": 20, "c": 30}}
    after = {"tasks": {"a": 0.25, "b": 0.25}, "num_rows": {"a": 10, "b": 20, "c": 30}}
    rows = retention_rows(after, before)
    assert [(row.task, row.value, row.num_rows) for row in rows] == [("a", 0.5, 10), ("b", 1.0, 20)]


@pytest.mark.parametrize(
    ("is_lower_better", "measured", "has_passed", "text"),
    [
        (True, 1.25, True, "perplexity_ratio 1.25 <= 1.25 passed"),
        (True, 1.26, False, "perplexity_ratio 1.26 <= 1.25 failed"),
        (False, 1.25, True, "perplexity_ratio 1.25 >= 1.25 passed"),
        (False, 1.24, False, "perplexity_ratio 1.24 >= 1.25 failed"),
    ],
)
def test_a_check_passes_at_its_limit_and_says_so(
    is_lower_better: bool, measured: float, has_passed: bool, text: str
) -> None:
    check = Check("perplexity_ratio", measured, 1.25, is_lower_better)
    assert check.has_passed == has_passed and str(check) == text
    assert (
        check.as_dict().items()
        >= {
            "name": "perplexity_ratio",
            "measured": measured,
            "limit": 1.25,
            "is_lower_better": is_lower_better,
            "has_passed": has_passed,
            "verdict": "passed" if has_passed else "failed",
        }.items()
    )


def test_a_check_says_all_that_it_knows() -> None:
    check = Check("accuracy_ratio", 0.81, 0.7, False, 0.6, 1.02, "23 questions", "the machine was busy")
    assert check.as_dict() == {
        "name": "accuracy_ratio", "measured": 0.81, "limit": 0.7, "is_lower_better": False, "low": 0.6, "high": 1.02,
        "measured_on": "23 questions", "undecided": "the machine was busy", "has_passed": True, "verdict": "not decided",
        "laxness": "30% of the accuracy may be lost", "known": "[0.6, 1.02]",
    }  # fmt: skip
    assert str(Check("perplexity_ratio", 1.5, 1.2, True)) == "perplexity_ratio 1.5 <= 1.2 failed"
    assert (
        Check("x", 0.81, 0.7, False, None, 1.0).as_dict()["known"]
        == Check("x", 1.0, 1.0, True, 0.5).as_dict()["known"]
        == ""
    )


@pytest.mark.parametrize(
    ("is_lower_better", "limit", "text"),
    [
        (False, 1.0, "0% of the accuracy may be lost"),
        (False, 1.25, "accuracy must rise by 25%"),
        (True, 1.0, "accuracy may rise by 0%"),
        (True, 0.75, "accuracy must fall by 25%"),
    ],
)
def test_what_a_limit_lets_through_at_its_ends(is_lower_better: bool, limit: float, text: str) -> None:
    assert Check("accuracy_ratio", 1.0, limit, is_lower_better).laxness == text


def test_rounding_alone_fails_nothing_and_more_than_rounding_does() -> None:
    for is_lower_better, sign in ((True, 1.0), (False, -1.0)):
        assert Check("x", 0.9 + sign * 1e-10, 0.9, is_lower_better).has_passed
        assert not Check("x", 0.9 + sign * 1e-3, 0.9, is_lower_better).has_passed


def test_a_check_is_named_by_its_metric_and_says_which_side_was_not_measured() -> None:
    numbers = {"accuracy": 0.5, "perplexity": 20.0, "num_parameters": 100.0}
    checks = run_gate({"min_accuracy_retention": 0.9, "max_perplexity_ratio": 1.2}, numbers, numbers)
    assert [check.name for check in checks] == ["accuracy_ratio", "perplexity_ratio"]
    for side in ("candidate", "baseline"):
        sides = {"candidate": numbers, "baseline": numbers, side: {"perplexity": 20.0}}
        with pytest.raises(ValueError) as raised:
            run_gate({"min_accuracy_retention": 0.9}, sides["candidate"], sides["baseline"])
        assert (
            str(raised.value)
            == f"gate.min_accuracy_retention needs accuracy, which the {side}'s evaluation did not measure"
        )
