"""Distributions over classes: losses of tokens are those of rows, a temperature keeps the gradient's size, rows without a label say nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from attar.compressors.distill.losses.classes import ClassDistributions, Labels
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.mixtures import JensenShannon
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Mix
from attar.compressors.distill.teachers.outputs import ClassOutputs, Teachers
from attar.stages.finetune.objective_spec import ObjectiveSpec

ROWS, CLASSES = 6, 4


def logits_of(seed: int) -> torch.Tensor:
    return 2.0 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed))


def loss_of(objective: Any, logits: torch.Tensor, teacher: torch.Tensor | None, labels: Any = None) -> torch.Tensor:
    labels = torch.arange(ROWS) % CLASSES if labels is None else torch.as_tensor(labels)
    teachers = Teachers(None if teacher is None else ClassOutputs(teacher))
    num_terms = int((labels >= 0).sum()) if objective == Labels() else ROWS
    views = {DISTRIBUTIONS: ClassDistributions(logits, labels, teachers)}
    return Reduction({"own": objective}, {"own": 1.0}).loss(views, {"own": num_terms})[0]


def gradient_of(objective: Any, logits: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
    leaf = logits.clone().requires_grad_()
    loss_of(objective, leaf, teacher).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL(), JensenShannon()])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equal_distributions_are_at_zero_and_a_step_comes_nearer(divergence: Any, temperature: float) -> None:
    objective, teacher = Distil(divergence=divergence, temperature=temperature), logits_of(1)
    assert float(loss_of(objective, teacher + 3.0, teacher)) == pytest.approx(0.0, abs=1e-5)
    student = logits_of(0)
    moved = student - 0.05 * gradient_of(objective, student, teacher)
    assert float(loss_of(objective, moved, teacher)) < float(loss_of(objective, student, teacher))


def test_a_temperature_is_hinton_s() -> None:
    student, teacher, heat = logits_of(0), logits_of(1), 3.0
    expected = heat**2 * functional.kl_div(
        (student / heat).log_softmax(-1), (teacher / heat).softmax(-1), reduction="batchmean"
    )
    soft = Distil(divergence=ForwardKL(), temperature=heat)
    assert float(loss_of(soft, student, teacher)) == pytest.approx(float(expected), rel=1e-5)
    # at a high temperature the gradient no longer depends on it: (z_S - z_T) / C of centred logits, which the square is for
    hot = [gradient_of(Distil(divergence=ForwardKL(), temperature=t), student, teacher) for t in (1e3, 2e3)]
    centred = [some - some.mean(-1, keepdim=True) for some in (student, teacher)]
    assert torch.allclose(hot[0], hot[1], atol=1e-3)
    assert torch.allclose(hot[0], (centred[0] - centred[1]) / (CLASSES * ROWS), atol=1e-3)


def test_labels_are_cross_entropy_and_rows_without_one_say_nothing() -> None:
    student, labels = logits_of(0), torch.tensor([0, -1, 2, -1, 1, 3])
    known = labels >= 0
    expected = functional.cross_entropy(student[known], labels[known])
    assert float(loss_of(Labels(), student, None, labels)) == pytest.approx(float(expected), rel=1e-6)
    leaf = student.clone().requires_grad_()
    loss_of(Labels(), leaf, None, labels).backward()
    assert leaf.grad is not None and not leaf.grad[~known].any() and leaf.grad[known].any()
    every = torch.arange(ROWS) % CLASSES
    smooth = functional.cross_entropy(student, every, label_smoothing=0.1)
    assert float(loss_of(Labels(smoothing=0.1), student, None)) == pytest.approx(float(smooth), rel=1e-5)


def test_targets_and_weights_of_tokens_are_those_of_classes() -> None:
    student, teacher = logits_of(0), logits_of(1)
    half = Distil(divergence=ForwardKL(), target=Mix(share=0.5))
    onehot = functional.one_hot(torch.arange(ROWS) % CLASSES, CLASSES)
    target = 0.5 * onehot + 0.5 * teacher.softmax(-1)
    expected = (target * (target.log() - student.log_softmax(-1))).sum(-1).mean()
    assert float(loss_of(half, student, teacher)) == pytest.approx(float(expected), rel=1e-4)
    clip = {"clip": {"limit_nats": 0.1}}
    weighed = ObjectiveSpec.model_validate({"divergence": "forward_kl", "token_weight": clip}).objective()
    assert float(loss_of(weighed, student, teacher)) == pytest.approx(0.1)  # every row is beyond it
    with pytest.raises(ValueError, match="reads each row's label, and a row has none"):
        loss_of(half, student, teacher, [0, -1, 2, 0, 1, 3])


def test_a_recipe_spells_them() -> None:
    spec = ObjectiveSpec.model_validate({"divergence": "forward_kl", "temperature": 2.0})
    assert spec.objective() == Distil(divergence=ForwardKL(), temperature=2.0)
    assert ObjectiveSpec.model_validate({"divergence": {"labels": {"smoothing": 0.1}}}).objective() == Labels(
        smoothing=0.1
    )
    with pytest.raises(ValueError, match="temperature has nothing to act on"):
        ObjectiveSpec.model_validate({"divergence": "labels", "temperature": 2.0}).objective()
    with pytest.raises(ValueError, match="smoothing is 1"):
        Labels(smoothing=1.0)
