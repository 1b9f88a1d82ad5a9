"""Pseudo-subclasses (LELP): they add up to the class, ignore what tells classes apart, are nothing new alone, and find what is planted."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.losses.classes import ClassDistributions
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.outputs import ClassOutputs, Teachers
from attar.compressors.distill.teachers.subclasses import Subclasses, split_by_chance

ROWS, CLASSES, WIDTH, SUBCLASSES = 200, 2, 16, 2


def planted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of two classes along the weights, each of two groups along directions off them; weights, classes, groups."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    classes = torch.arange(ROWS) % CLASSES
    groups = torch.arange(ROWS) // CLASSES % SUBCLASSES
    features = 0.3 * torch.randn(ROWS, WIDTH, generator=generator)
    features += 2.0 * basis[classes] + 3.0 * (2 * groups[:, None] - 1) * basis[CLASSES + classes]
    return features, basis[:CLASSES], classes, groups


def fitted(num_subclasses: int = SUBCLASSES, **options: float) -> tuple[Subclasses, torch.Tensor, torch.Tensor]:
    features, weight, classes, _ = planted()
    return Subclasses.fit(features, classes, weight, num_subclasses, **options), features @ weight.T, features  # type: ignore[arg-type]


def loss_of(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros(len(student), dtype=torch.long)
    views = {DISTRIBUTIONS: ClassDistributions(student, labels, Teachers(ClassOutputs(teacher)))}
    return Reduction({"own": Distil(divergence=ForwardKL())}, {"own": 1.0}).loss(views, {"own": len(student)})[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_subclasses_add_up_to_the_class(temperature: float) -> None:
    subclasses, logits, features = fitted(4, temperature=temperature)
    summed = subclasses.split(logits, features).unflatten(-1, (CLASSES, 4)).exp().sum(-1)
    assert torch.allclose(summed, logits.softmax(-1), atol=1e-6)
    assert torch.allclose(split_by_chance(logits, 4, 0).unflatten(-1, (CLASSES, 4)).exp().sum(-1), summed, atol=1e-6)


def test_what_tells_classes_apart_tells_no_subclass() -> None:
    subclasses, _, features = fitted()
    weight = planted()[1]
    moved = features + torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1)) @ weight
    assert torch.allclose(subclasses.coordinates(features), subclasses.coordinates(moved), atol=1e-4)
    # directions off the weights do
    assert not torch.allclose(subclasses.coordinates(features), subclasses.coordinates(features.roll(1, 1)), atol=0.1)


def test_one_subclass_is_plain_distillation() -> None:
    subclasses, logits, features = fitted(1)
    taught = subclasses.split(logits, features)
    assert torch.allclose(taught, logits.log_softmax(-1), atol=1e-6)
    student = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(2)).requires_grad_()
    pair = []
    for teacher in (taught, logits):
        (gradient,) = torch.autograd.grad(loss_of(student, teacher), student)
        pair.append(gradient)
    assert torch.allclose(*pair, atol=1e-7)


def test_planted_subclasses_are_told_apart_and_chance_tells_none() -> None:
    subclasses, logits, features = fitted()
    _, _, classes, groups = planted()
    coordinates = subclasses.coordinates(features)[torch.arange(ROWS), classes]
    chance = split_by_chance(logits, SUBCLASSES, 0).unflatten(-1, (CLASSES, -1))[torch.arange(ROWS), classes]
    for index in range(CLASSES):
        own, group = coordinates[classes == index].argmax(-1), groups[classes == index]
        share = float((own == group).float().mean())
        assert max(share, 1 - share) > 0.95
        drawn = float((chance[classes == index].argmax(-1) == group).float().mean())
        assert 0.3 < drawn < 0.7
    # scaled to a mean variance of 1, which a rotation keeps
    own = coordinates[classes == 0]
    assert float(own.var(dim=0).mean()) == pytest.approx(1.0, rel=1e-3)
    turned = fitted(seed=7)[0].coordinates(features)[torch.arange(ROWS), classes]
    assert torch.allclose(turned.norm(dim=-1), coordinates.norm(dim=-1), rtol=1e-3)
    assert not torch.allclose(turned, coordinates, atol=0.1)


def test_the_student_comes_nearer_and_the_teacher_stays() -> None:
    subclasses, logits, features = fitted()
    taught = subclasses.split(logits, features).requires_grad_()
    student = torch.zeros(ROWS, CLASSES * SUBCLASSES, requires_grad=True)
    before = loss_of(student, taught)
    before.backward()
    assert taught.grad is None and student.grad is not None
    moved = student.detach() - 10.0 * student.grad
    assert float(loss_of(moved, taught.detach())) < float(before.detach())


def test_a_class_of_too_few_texts_is_split_evenly_and_too_many_subclasses_are_refused() -> None:
    features, weight, classes, _ = planted()
    rare = classes.clone()
    rare[2:] = 0
    even = Subclasses.fit(features, rare, weight, SUBCLASSES).split(features @ weight.T, features)
    pair = even.unflatten(-1, (CLASSES, SUBCLASSES))[:, 1]
    assert torch.allclose(pair[:, 0], pair[:, 1], atol=1e-6)
    with pytest.raises(ValueError, match="num_subclasses is 15, but beside its classes the teacher's features have 14"):
        Subclasses.fit(features, classes, weight, 15)
