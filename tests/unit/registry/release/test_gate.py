"""The gate: ratios against thresholds, and nothing unmeasured passes."""

from __future__ import annotations

import pytest

from attar.registry.release.gate import THRESHOLDS, Check, Ratio, run_gate

BASELINE = {"accuracy": 0.8, "perplexity": 20.0, "decode_seconds_per_token": 0.05, "num_parameters": 100.0}


@pytest.mark.parametrize(
    ("name", "limit", "metric", "value", "passes"),
    [
        ("min_accuracy_retention", 0.9, "accuracy", 0.72, True),
        ("min_accuracy_retention", 0.9, "accuracy", 0.71, False),
        ("max_perplexity_ratio", 1.2, "perplexity", 24.0, True),
        ("max_perplexity_ratio", 1.2, "perplexity", 24.5, False),
        ("max_decode_latency_ratio", 0.9, "decode_seconds_per_token", 0.046, False),
        ("max_size_ratio", 0.8, "num_parameters", 80.0, True),
        ("max_perplexity_ratio", 1.2, "perplexity", float("nan"), False),
    ],
)
def test_threshold_decides(name: str, limit: float, metric: str, value: float, passes: bool) -> None:
    [check] = run_gate({name: limit}, BASELINE | {metric: value}, BASELINE)
    assert check.has_passed is passes


def test_an_unmeasured_number_is_refused() -> None:
    with pytest.raises(ValueError, match="needs perplexity, which the candidate's evaluation did not measure"):
        run_gate({"max_perplexity_ratio": 1.1}, {"accuracy": 1.0}, BASELINE)


def test_a_baseline_of_zero_passes_nothing() -> None:
    [check] = run_gate({"min_accuracy_retention": 0.1}, BASELINE, BASELINE | {"accuracy": 0.0})
    assert not check.has_passed


def with_ratio(limit: float, ratio: Ratio, name: str = "min_accuracy_retention") -> Check:
    [check] = run_gate({name: limit}, BASELINE, BASELINE, {THRESHOLDS[name][0]: ratio})
    return check


def test_the_worse_end_of_the_interval_decides() -> None:
    """0.81 of the accuracy on 23 questions may be 0.6 of it: a gate at 0.7 is not passed by it."""
    few, many = Ratio(0.81, 0.60, 1.02, "23 questions"), Ratio(0.81, 0.79, 0.83, "4,000 questions")
    assert not with_ratio(0.7, few).has_passed and with_ratio(0.7, many).has_passed and with_ratio(0.6, few).has_passed
    above = Ratio(1.4, 1.3, 1.6, "1,100 tokens")
    assert not with_ratio(1.5, above, "max_perplexity_ratio").has_passed
    assert with_ratio(1.6, above, "max_perplexity_ratio").has_passed
    assert not with_ratio(0.1, Ratio(float("nan"), 0.9, 1.1)).has_passed, "what is no number passes nothing"
    assert str(with_ratio(0.7, few)) == "accuracy_ratio 0.81 [0.6, 1.02] on 23 questions >= 0.7 failed"


def test_a_time_that_tells_nothing_is_not_decided_by() -> None:
    check = with_ratio(1.0, Ratio(1.9, 1.8, 2.0, "5 rounds, apart", "the machine was busy"), "max_decode_latency_ratio")
    assert (
        check.has_passed and check.verdict == "not decided" and check.as_dict()["undecided"] == "the machine was busy"
    )


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [
        ("min_accuracy_retention", 0.6, "40% of the accuracy may be lost"),
        ("min_accuracy_retention", 1.1, "accuracy must rise by 10%"),
        ("max_perplexity_ratio", 2.0, "perplexity may rise by 100%"),
        ("max_size_ratio", 0.9, "parameters must fall by 10%"),
        ("max_decode_latency_ratio", 1.0, "decode seconds per token may rise by 0%"),
    ],
)
def test_a_limit_says_what_it_lets_through(name: str, limit: float, text: str) -> None:
    assert with_ratio(limit, Ratio(1.0), name).laxness == text
