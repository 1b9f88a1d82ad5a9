"""Schedules and the one reduction by hand: when a ramp ends, when a divergence is switched, and what a step's loss is divided by."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.objective import Requires, Terms, Whole
from attar.compressors.distill.losses.reduction import Reduction, combine, masked_sum
from attar.compressors.distill.losses.targets.target_ops import Mix
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence, with_parameter
from attar.compressors.distill.losses.weights.sample_weights import SelfPaced

MIXED = Distil(divergence=ForwardKL(), target=Mix(share=0.5), sample_weight=SelfPaced(kappa_nats=1.0))


def clock(step: int, num_steps: int = 8, epoch: int = 0, num_epochs: int = 4) -> Clock:
    return Clock(step=step, num_steps=num_steps, epoch=epoch, num_epochs=num_epochs)


def test_a_ramp_has_its_end_at_the_last_epoch_or_step() -> None:
    by_epoch = LinearRamp(parameter="weight", start=1.0, end=3.0)
    assert [by_epoch.at("o", 9.0, clock(0, epoch=epoch)) for epoch in range(5)] == [
        ("o", 1.5), ("o", 2.0), ("o", 2.5), ("o", 3.0), ("o", 3.0),
    ]  # fmt: skip
    by_step = replace(by_epoch, by="step")
    assert [by_step.at("o", 9.0, clock(step))[1] for step in (0, 3, 7, 8)] == [1.25, 2.0, 3.0, 3.0]
    assert by_step.at("o", 9.0, clock(0, num_steps=0))[1] == 3.0, "no steps: it is where it ends"
    assert LinearRamp(parameter="weight", end=2.0).at("o", 9.0, clock(0))[1] == 0.5, "from zero"


def test_a_ramp_may_end_before_the_training_does() -> None:
    ramp = LinearRamp(parameter="weight", end=1.0, by="step", until_fraction=0.5)
    assert [ramp.at("o", 9.0, clock(step))[1] for step in (0, 1, 3, 4, 7)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert replace(ramp, until_fraction=0.01).at("o", 9.0, clock(0))[1] == 1.0
    with pytest.raises(ValueError, match="until_fraction is 0.0; accepted: above 0, at most 1"):
        replace(ramp, until_fraction=0.0)


def test_a_ramp_of_a_parameter_leaves_the_weight() -> None:
    ramp = LinearRamp(parameter="target.share", end=1.0, by="step")
    changed, weight = ramp.at(MIXED, 0.7, clock(3))
    assert changed == replace(MIXED, target=Mix(share=0.5)) and weight == 0.7
    assert ramp.at(MIXED, 0.7, clock(5))[0] == replace(MIXED, target=Mix(share=0.75))
    kappa = LinearRamp(parameter="sample_weight.kappa_nats", end=4.0).at(MIXED, 1.0, clock(0, epoch=1))[0]
    assert kappa == replace(MIXED, sample_weight=SelfPaced(kappa_nats=2.0))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "shar",
            "parameter 'shar' is not there; known: divergence, target, temperature, token_weights, sample_weight, route, reduction",
        ),
        ("target.shar", "parameter 'shar' is not there; known: share, first, second"),
        ("target.share.x", "parameter 'x' is not there; known: none"),
        ("target.first", "parameter 'first' is no number; a number is what changes"),
        ("target", "parameter 'target' is no number; a number is what changes"),
    ],
)
def test_a_parameter_that_cannot_change_is_refused_in_these_words(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        with_parameter(MIXED, path, 1.0)


def test_a_divergence_is_switched_at_its_share_of_the_steps() -> None:
    switch = SwitchDivergence(to=ReverseKL(), at_fraction=0.25)
    reverse = replace(MIXED, divergence=ReverseKL())
    assert [switch.at(MIXED, 0.5, clock(step)) for step in (0, 1, 2, 7)] == [
        (MIXED, 0.5), (MIXED, 0.5), (reverse, 0.5), (reverse, 0.5),
    ]  # fmt: skip
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match=f"^at_fraction is {wrong}; accepted: between 0 and 1$"):
            SwitchDivergence(to=ReverseKL(), at_fraction=wrong)
    with pytest.raises(ValueError, match="^by is 'day'; accepted: epoch, step$"):
        LinearRamp(parameter="weight", end=1.0, by="day")  # type: ignore[arg-type]


def test_terms_that_do_not_count_give_neither_value_nor_gradient() -> None:
    values = torch.tensor([1.0, float("nan"), 4.0], requires_grad=True)
    total, count = masked_sum(Terms(values, torch.tensor([True, False, True])))
    assert float(total.detach()) == 5.0 and count == 2
    total.backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 0.0, 1.0]
    carried = torch.tensor([2.0, 3.0], requires_grad=True)
    total, count = masked_sum(Terms(torch.zeros(2), torch.tensor([True, False]), carried=2.0 * carried))
    assert float(total.detach()) == 0.0 and count == 1, "what is carried has no value"
    total.backward()
    assert carried.grad is not None and carried.grad.tolist() == [2.0, 2.0], "and its gradient at every position"


def test_each_sum_is_weighed_and_divided_by_the_steps_terms() -> None:
    sums = {"a": (torch.tensor(6.0), 2), "b": (torch.tensor(10.0), 1), "c": (torch.tensor(0.0), 0)}
    total = combine(sums, {"a": 0.5, "b": 2.0, "c": 1.0}, {"a": 3, "b": 4, "c": 0})
    assert float(total) == 0.5 * 6 / 3 + 2.0 * 10 / 4
    with pytest.raises(AssertionError, match="no objectives"):
        combine({}, {}, {})


class Fixed:
    """An objective with the terms that its views are."""

    def __init__(self, kind: str) -> None:
        self.requires = Requires(views=kind)

    def terms(self, views: torch.Tensor) -> Terms:
        return Terms(views, torch.ones_like(views, dtype=torch.bool))


class InParts:
    """Views in two parts, as those that do not fit into memory."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.parts = parts

    def total(self, objectives: Any, loss_of: Any) -> torch.Tensor:
        return torch.stack([loss_of(part) for part in self.parts]).sum()


def test_the_loss_of_a_batch_is_the_sum_over_kinds_and_parts_and_sums_are_as_they_are() -> None:
    objectives: Any = {"text": Fixed("tokens"), "more": Fixed("tokens"), "image": Fixed("pixels")}
    reduction = Reduction(objectives, {"text": 1.0, "more": 0.5, "image": 2.0})
    observed: Any = {
        "tokens": InParts(torch.tensor([1.0, 2.0]), torch.tensor([3.0])), "pixels": Whole(torch.tensor([8.0])),
    }  # fmt: skip
    loss, sums = reduction.loss(observed, {"text": 6, "more": 3, "image": 4})
    assert float(loss) == 6.0 / 6 + 0.5 * 6.0 / 3 + 2.0 * 8.0 / 4
    assert sums == {"text": (6.0, 3), "more": (6.0, 3), "image": (8.0, 1)}
    message = "objective 'image' reads pixels; known here: tokens"
    with pytest.raises(ValueError, match=f"^{message}$"):
        reduction.loss({"tokens": observed["tokens"]}, {"text": 6, "more": 3, "image": 4})
    with pytest.raises(AssertionError, match="no objectives"):
        Reduction({}, {}).loss(observed, {})


def test_a_reduction_at_a_time_has_every_change_made_in_turn() -> None:
    schedules = {
        "own": (LinearRamp(parameter="weight", end=2.0, by="step"), SwitchDivergence(to=ReverseKL(), at_fraction=0.5)),
        "late": (SwitchDivergence(to=ReverseKL(), at_fraction=0.9),),
    }
    reduction = Reduction({"own": MIXED, "late": MIXED}, {"own": 1.0, "late": 3.0}, schedules)
    now = reduction.at(clock(5))
    assert now.objectives == {"own": replace(MIXED, divergence=ReverseKL()), "late": MIXED}
    assert now.weights == {"own": 1.5, "late": 3.0} and now.schedules == schedules
    assert reduction.objectives["own"] == MIXED and reduction.weights["own"] == 1.0, "it is not changed itself"
    plain = Reduction({"own": MIXED}, {"own": 1.0})
    assert plain.at(clock(5)) is plain
