"""What a component accepts, to the very end of its range, and what it says of a value beyond it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.rollouts import ROLLOUTS
from attar.compressors.distill.losses.divergences.catalogue import CHUNKWISE, DIVERGENCES, LISTWISE
from attar.compressors.distill.losses.divergences.kullback import ReverseKL
from attar.compressors.distill.losses.targets.target_ops import TARGETS
from attar.compressors.distill.losses.weights.coefficients import COEFFICIENT_SCHEDULES
from attar.compressors.distill.losses.weights.sample_weights import SAMPLE_WEIGHTS
from attar.compressors.distill.losses.weights.token_weights import TOKEN_WEIGHTS
from attar.compressors.distill.teachers.sources import SELF_RULES

TABLES: dict[str, Any] = (
    DIVERGENCES | LISTWISE | CHUNKWISE | TARGETS | TOKEN_WEIGHTS | SAMPLE_WEIGHTS | COEFFICIENT_SCHEDULES | SELF_RULES
)
NAN = math.nan

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("jeffreys", {"forward_weight": 0.0}, "forward_weight and reverse_weight are 0.0 and 1.0; accepted: above 0"),
    ("jeffreys", {"reverse_weight": -1.0}, "forward_weight and reverse_weight are 1.0 and -1.0; accepted: above 0"),
    ("jensen_shannon", {"beta": -0.1}, "beta is -0.1; accepted: from 0 to 1"),
    ("jensen_shannon", {"beta": 1.1}, "beta is 1.1; accepted: from 0 to 1"),
    ("jensen_shannon", {"beta": 0.0}, "beta is 0.0, where the divergence is 0 between any two; set is_normalized"),
    ("jensen_shannon", {"beta": 1.0}, "beta is 1.0, where the divergence is 0 between any two; set is_normalized"),
    ("skew_kl", {"skew": 0.0}, "skew is 0.0; accepted: between 0 and 1; at 0 it is forward_kl or reverse_kl"),
    ("skew_kl", {"skew": 1.0}, "skew is 1.0; accepted: between 0 and 1"),
    ("skew_kl", {"direction": "up"}, "direction is 'up'; accepted: forward, reverse"),
    ("chi_square", {"direction": "up"}, "direction is 'up'; accepted: forward, reverse"),
    ("plackett_luce", {"num_ranked": 1}, "num_ranked is 1; accepted: 2 or more"),
    ("clipped_ratio", {"clip_low": 0.0}, "clip_low and clip_high are 0.0 and 0.2; accepted: in (0, 1) and above 0"),
    ("clipped_ratio", {"clip_low": 1.0}, "clip_low and clip_high are 1.0 and 0.2; accepted: in (0, 1) and above 0"),
    ("clipped_ratio", {"clip_high": 0.0}, "clip_low and clip_high are 0.2 and 0.0; accepted: in (0, 1) and above 0"),
    ("teacher_ratio", {"alpha": -0.1}, "alpha is -0.1; accepted: from 0 to 1"),
    ("teacher_ratio", {"alpha": 1.1}, "alpha is 1.1; accepted: from 0 to 1"),
    ("teacher_ratio", {"clip_low": 1.0}, "clip_low and clip_high are 1.0 and 0.28; accepted: in (0, 1) and above 0"),
    ("chunk_likelihood", {"tau": 0.0}, "tau and epsilon are 0.0 and 1e-06; accepted: above 0, and in (0, 0.5)"),
    ("chunk_likelihood", {"epsilon": 0.5}, "tau and epsilon are 100.0 and 0.5; accepted: above 0, and in (0, 0.5)"),
    ("chunk_likelihood", {"epsilon": 0.0}, "tau and epsilon are 100.0 and 0.0; accepted: above 0, and in (0, 0.5)"),
    ("mix", {"share": -0.1}, "share is -0.1; accepted: from 0 to 1"),
    ("mix", {"share": 1.1}, "share is 1.1; accepted: from 0 to 1"),
    ("mix", {"share": NAN}, "share is nan; accepted: a number"),
    ("mix", {"share": 0.5, "first": "crowd"}, "no teacher source 'crowd'; accepted: teacher, past, anchor, labels"),
    ("mix", {"share": 0.5, "second": "crowd"}, "no teacher source 'crowd'; accepted: teacher, past, anchor, labels"),
    ("identity", {"of": "crowd"}, "no teacher source 'crowd'; accepted: teacher, past, anchor, labels"),
    ("geometric_mix", {"share": 2.0}, "share is 2.0; accepted: from 0 to 1"),
    (
        "geometric_mix",
        {"share": 0.5, "first": "labels"},
        "a geometric mix with labels is the labels, whatever its share",
    ),
    (
        "geometric_mix",
        {"share": 0.5, "second": "labels"},
        "a geometric mix with labels is the labels, whatever its share",
    ),
    ("geometric_mix", {"share": 0.5, "second": "crowd"}, "no teacher source 'crowd'"),
    ("temper", {"temperature": 0.0}, "temperature is 0.0; accepted: above 0"),
    ("temper", {"temperature": 1.0, "of": "crowd"}, "no teacher source 'crowd'"),
    ("entropy_temper", {"lowest": 0.0}, "lowest and highest are 0.0 and 1.5; accepted: 0 < lowest <= highest"),
    ("entropy_temper", {"lowest": 2.0}, "lowest and highest are 2.0 and 1.5; accepted: 0 < lowest <= highest"),
    ("entropy_temper", {"of": "crowd"}, "no teacher source 'crowd'"),
    ("kl_ball", {"budget_nats": -0.1}, "budget_nats is -0.1; accepted: 0 or more"),
    ("kl_ball", {"budget_nats": 0.1, "center": "labels"}, "a KL ball needs two distributions with mass everywhere"),
    ("kl_ball", {"budget_nats": 0.1, "toward": "labels"}, "a KL ball needs two distributions with mass everywhere"),
    ("kl_ball", {"budget_nats": 0.1, "toward": "crowd"}, "no teacher source 'crowd'"),
    ("clip", {"limit_nats": 0.0}, "limit_nats is 0.0; accepted: above 0"),
    ("opener", {"entropy_fraction": 0.0}, "entropy_fraction is 0.0; accepted: above 0, at most 1"),
    ("opener", {"entropy_fraction": 1.1}, "entropy_fraction is 1.1; accepted: above 0, at most 1"),
    ("top_entropy", {"fraction": 0.0}, "fraction is 0.0; accepted: above 0, at most 1"),
    ("top_entropy", {"fraction": 1.1}, "fraction is 1.1; accepted: above 0, at most 1"),
    ("confident", {"max_entropy_nats": 1.0, "of": "crowd"}, "of is 'crowd'; accepted: student, teacher"),
    ("beta_kernel", {"alpha": -0.1}, "alpha and beta are -0.1 and 1.0; accepted: 0 or more"),
    ("beta_kernel", {"beta": -0.1}, "alpha and beta are 1.0 and -0.1; accepted: 0 or more"),
    ("self_paced", {"kappa_nats": 0.0}, "kappa_nats is 0.0; accepted: above 0"),
    ("linear_ramp", {"parameter": "weight", "end": 1.0, "by": "day"}, "by is 'day'; accepted: epoch, step"),
    ("switch_divergence", {"to": ReverseKL(), "at_fraction": 0.0}, "at_fraction is 0.0; accepted: between 0 and 1"),
    ("switch_divergence", {"to": ReverseKL(), "at_fraction": 1.0}, "at_fraction is 1.0; accepted: between 0 and 1"),
    ("ema", {"decay": 1.0}, "decay is 1.0; accepted: from 0, below 1"),
    ("ema", {"every": 0}, "every is 0; accepted: 1 or more steps"),
    ("generation", {"num_epochs": 0}, "num_epochs is 0; accepted: 1 or more"),
]
AT_THE_END: list[tuple[str, dict[str, Any]]] = [
    ("jensen_shannon", {"beta": 0.0, "is_normalized": True}),
    ("jensen_shannon", {"beta": 1.0, "is_normalized": True}),
    ("plackett_luce", {"num_ranked": 2}),
    ("jeffreys", {"forward_weight": 1e-3, "reverse_weight": 1e-3}),
    ("teacher_ratio", {"alpha": 0.0}),
    ("teacher_ratio", {"alpha": 1.0}),
    ("clipped_ratio", {"clip_low": 0.999, "clip_high": 5.0}),
    ("chunk_likelihood", {"tau": 1e-3, "epsilon": 0.49}),
    ("mix", {"share": 0.0}),
    ("mix", {"share": 1.0}),
    ("geometric_mix", {"share": 0.0, "second": "labels"}),
    ("geometric_mix", {"share": 1.0, "first": "labels"}),
    ("temper", {"temperature": 1e-3}),
    ("entropy_temper", {"lowest": 1.5, "highest": 1.5}),
    ("kl_ball", {"budget_nats": 0.0}),
    ("clip", {"limit_nats": 1e-3}),
    ("opener", {"entropy_fraction": 1.0}),
    ("top_entropy", {"fraction": 1.0}),
    ("beta_kernel", {"alpha": 0.0, "beta": 0.0}),
    ("self_paced", {"kappa_nats": 1e-3}),
    ("linear_ramp", {"parameter": "weight", "end": 1.0, "by": "step"}),
    ("switch_divergence", {"to": ReverseKL(), "at_fraction": 0.999}),
    ("ema", {"decay": 0.0, "every": 1}),
    ("generation", {"num_epochs": 1}),
]


@pytest.mark.parametrize(("name", "params", "message"), REFUSED)
def test_a_value_beyond_the_range_is_refused_with_what_is_accepted(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as raised:
        build(TABLES, name, params)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("name", "params"), AT_THE_END)
def test_the_end_of_a_range_is_accepted(name: str, params: dict[str, Any]) -> None:
    assert build(TABLES, name, params) is not None


@pytest.mark.parametrize("name", ROLLOUTS)
def test_a_rollout_that_draws_nothing_is_refused(name: str) -> None:
    for params, message in (
        ({"num_samples": 0}, "num_samples and max_new_tokens are 0 and 128; accepted: 1 or more"),
        ({"max_new_tokens": 0}, "num_samples and max_new_tokens are 1 and 0; accepted: 1 or more"),
        ({"temperature": -0.1}, "temperature and top_p are -0.1 and 1.0; accepted: 0 or more, and in (0, 1]"),
        ({"top_p": 0.0}, "temperature and top_p are 1.0 and 0.0; accepted: 0 or more, and in (0, 1]"),
        ({"top_p": 1.1}, "temperature and top_p are 1.0 and 1.1; accepted: 0 or more, and in (0, 1]"),
    ):
        with pytest.raises(ValueError) as raised:
            build(ROLLOUTS, name, params)
        assert str(raised.value) == message
    assert build(ROLLOUTS, name, {"num_samples": 1, "max_new_tokens": 1, "temperature": 0.0, "top_p": 1.0}) is not None


def test_a_repair_that_cannot_finish_anything_is_refused() -> None:
    for params, message in (
        ({"num_repair_tokens": 0}, "num_repair_tokens and length_ratio are 0 and 0.0; accepted: 1 or more, 0 or more"),
        ({"length_ratio": -1.0}, "num_repair_tokens and length_ratio are 128 and -1.0; accepted: 1 or more, 0 or more"),
        ({"student_fraction": 1.1}, "student_fraction is 1.1; accepted: from 0 to 1"),
        ({"student_fraction": -0.1}, "student_fraction is -0.1; accepted: from 0 to 1"),
    ):
        with pytest.raises(ValueError) as raised:
            build(ROLLOUTS, "repair", params)
        assert str(raised.value) == message
    assert build(ROLLOUTS, "repair", {"student_fraction": 0.0, "num_repair_tokens": 1}) is not None
