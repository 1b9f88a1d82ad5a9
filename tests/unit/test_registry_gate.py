"""The gate: ratios against thresholds, and nothing unmeasured passes."""

from __future__ import annotations

import pytest

from registry.gate import run_gate

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
