"""A pool of teachers: the planted nearest wins by either similarity, weights sum to 1, a power without end is the nearest, 0 is all alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.loop.classes import class_views
from attar.compressors.distill.loop.copies import copied, teacher_name
from attar.compressors.distill.losses.classes import Labels
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.outputs import ClassOutputs, Teachers
from attar.compressors.distill.teachers.pool import PoolRule, PoolStudent
from attar.compressors.measure.ranking import SIMILARITIES, cka, parc

ROWS, CLASSES, WIDTH = 90, 3, 12
VALUES = [0.5, 0.7, 0.2]


def annotations() -> torch.Tensor:
    classes = torch.arange(ROWS) % CLASSES
    return (classes[:, None] == classes[None]).double()


def features(strength: float, seed: int = 0) -> torch.Tensor:
    """Noise, and as far as `strength` goes the class."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, WIDTH, generator=generator)
    return strength * centers[torch.arange(ROWS) % CLASSES] + torch.randn(ROWS, WIDTH, generator=generator)


@pytest.mark.parametrize("similarity", ["cka", "parc"])
def test_the_planted_nearest_teacher_wins(similarity: str) -> None:
    rule, similar = PoolRule(power=None), SIMILARITIES[similarity]
    values = [similar(features(strength, seed), annotations()) for seed, strength in enumerate((0.0, 2.0, 0.7))]
    assert values[1] > values[2] > values[0] and max(values) <= 1.0
    assert rule.weights(values) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("similarity", [cka, parc])
def test_a_similarity_knows_no_turn_no_scale_and_no_shift(similarity) -> None:
    own = features(1.0)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)))[0]
    value = similarity(own, annotations())
    assert similarity(3.0 * own, annotations()) == pytest.approx(value)
    if similarity is cka:  # parc correlates over a vector's numbers, which a turn mixes
        assert cka(own @ turn + 5.0, annotations()) == pytest.approx(value)
        assert cka(torch.eye(CLASSES)[torch.arange(ROWS) % CLASSES], annotations()) == pytest.approx(1.0)
    assert similarity(torch.ones(ROWS, WIDTH), annotations()) == 0.0


@pytest.mark.parametrize("power", [0.0, 1.0, 9.0, 200.0, None])
def test_weights_sum_to_one(power: float | None) -> None:
    weights = PoolRule(power=power).weights(VALUES)
    assert sum(weights) == pytest.approx(1.0) and all(weight >= 0 for weight in weights)


def test_a_power_without_end_is_the_nearest_and_none_is_all_alike() -> None:
    nearest = PoolRule(power=None).weights(VALUES)
    assert PoolRule(power=5000.0).weights(VALUES) == nearest == [0.0, 1.0, 0.0]
    assert PoolRule(power=0.0).weights(VALUES) == [1 / 3] * 3
    by_hand = [some**9 for some in VALUES]
    assert PoolRule(power=9.0).weights(VALUES) == pytest.approx([some / sum(by_hand) for some in by_hand])


def test_who_is_not_alike_teaches_nothing_and_a_pool_of_such_is_refused() -> None:
    assert PoolRule(power=1.0).weights([0.5, -0.2])[1] == 0.0
    with pytest.raises(ValueError, match="no teacher of the pool is alike to the target: cka is -0.1, 0"):
        PoolRule().weights([-0.1, 0.0])


class Plain(nn.Module):
    """A classifier that is its last layer alone."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.model = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.model(states)


def taught(shares: list[float], *, seed: int = 0) -> tuple[torch.Tensor, nn.Linear, nn.Module]:
    """The loss of a classifier with a head for each teacher of shares above 0, teachers of 2, 4, ... classes; its layer, its module."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(WIDTH, CLASSES)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    named = {teacher_name(number): share for number, share in enumerate(shares, start=1)}
    widths = {name: 2 * (index + 1) for index, name in enumerate(named) if named[name]}
    says = {name: torch.randn(ROWS, 2 * (index + 1), generator=generator) for index, name in enumerate(named)}
    states = torch.randn(ROWS, WIDTH, generator=generator)
    student = PoolStudent(Plain(layer), layer, list(widths.values()))
    output = student(states)
    teachers = Teachers(teacher=ClassOutputs(torch.cat([says[name] for name in widths], dim=-1)))
    facts = tuple(SampleFacts() for _ in range(ROWS))
    views = class_views(output, torch.arange(ROWS) % CLASSES, teachers, facts, {}, widths)
    plain = Reduction({"labels": Labels(), "near": Distil(divergence=ForwardKL())}, {"labels": 1.0, "near": 0.5})
    reduction = copied(plain, named, lambda objective: "teacher" in objective.requires.sources)
    loss, _ = reduction.loss(views, dict.fromkeys(reduction.objectives, ROWS))
    return loss, layer, student


def test_each_teacher_has_a_head_of_its_own_and_the_own_classes_stay_the_data_s() -> None:
    loss, layer, student = taught([0.25, 0.75])
    loss.backward()
    assert [head.out_features for head in student.pool_heads] == [2, 4]  # type: ignore[attr-defined, union-attr]
    both = loss.detach()
    alone = [taught([1.0, 0.0])[0].detach(), taught([0.0, 1.0])[0].detach()]
    labels = (both - 0.25 * alone[0] - 0.75 * alone[1]).abs()
    assert float(labels) < 1e-6, "a weighted sum, labels counted once"
    with_labels = layer.weight.grad.clone()  # type: ignore[union-attr]
    other, again, _ = taught([0.75, 0.25])
    other.backward()
    assert torch.allclose(with_labels, again.weight.grad)  # type: ignore[arg-type] - no teacher speaks to the data's own classes
