"""Losses between hidden states: laws, float64 references, and that they train through the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attar.compressors.adapt.lora import Lora
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.hidden import AttentionRelation, HiddenCosine, HiddenMSE
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.hidden_states import HiddenDistil
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.sources import Base
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from attar.stages.ingest.tiny_model import random_model
from tests.builders import trainer_of

SEQUENCES = torch.tensor([0, 0, 0, 1, 1])
EXAMPLES = [Example([5, 6, 7], [8, 9, 10]), Example([10], [11, 12, 13]), Example([20, 21], [22, 23])]


def states(seed: int, widths: tuple[int, int, int, int] = (8, 8, 4, 4)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("hidden", "q_proj", "k_proj", "v_proj")
    return {name: torch.randn(5, width, generator=generator) for name, width in zip(names, widths, strict=True)}


def test_values_are_their_definitions() -> None:
    student, teacher = states(0), states(1)
    s, t = student["hidden"].double().numpy(), teacher["hidden"].double().numpy()
    np.testing.assert_allclose(HiddenMSE()(student, teacher, SEQUENCES), ((s - t) ** 2).mean(-1), rtol=1e-5)
    cosine = 1 - (s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)
    np.testing.assert_allclose(HiddenCosine()(student, teacher, SEQUENCES), cosine, rtol=1e-4, atol=1e-6)
    values = AttentionRelation(num_relation_heads=2)(student, teacher, SEQUENCES)
    expected = np.zeros(5)
    for rows in ([0, 1, 2], [3, 4]):
        for name in ("q_proj", "k_proj", "v_proj"):
            both = [model[name].double().numpy()[rows] for model in (student, teacher)]
            for half in (0, 1):
                d = both[0].shape[1] // 2
                parts = [runner[:, half * d : (half + 1) * d] for runner in both]
                gap = parts[0] @ parts[0].T / d**0.5 - parts[1] @ parts[1].T / d**0.5
                expected[rows] += (gap**2).mean(-1) / 2
    np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [HiddenMSE(), HiddenCosine(), AttentionRelation()])
def test_zero_between_equals_positive_between_others(loss: HiddenMSE) -> None:
    same = loss(states(0), states(0), SEQUENCES)
    torch.testing.assert_close(same, torch.zeros(5), atol=1e-6, rtol=0)
    assert (loss(states(0), states(1), SEQUENCES) > 1e-3).all()


def test_relations_do_not_change_under_a_rotation_and_do_not_mind_widths() -> None:
    teacher = states(1)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
    turned = {**teacher, "q_proj": teacher["q_proj"] @ rotation}
    torch.testing.assert_close(AttentionRelation()(turned, teacher, SEQUENCES), torch.zeros(5), atol=1e-5, rtol=0)
    assert (HiddenMSE()({"hidden": turned["q_proj"]}, {"hidden": teacher["q_proj"]}, SEQUENCES) > 0.01).all(), (
        "a plain one does"
    )
    wide = states(1, (16, 16, 16, 16))
    assert torch.isfinite(AttentionRelation(num_relation_heads=4)(states(0), wide, SEQUENCES)).all()
    with pytest.raises(ValueError, match="8 wide, the teacher's 16; use attention_relation"):
        HiddenMSE()(states(0), wide, SEQUENCES)
    with pytest.raises(ValueError, match="does not divide a projection's width 8"):
        AttentionRelation(num_relation_heads=3)(states(0), teacher, SEQUENCES)


def trainer(objective: object, teacher: object, tokens_per_micro_batch: int = 100) -> Trainer:
    torch.manual_seed(0)
    student = Student(Lora(rank=4)(random_model("llama")[0], 0))
    schedule = Schedule(
        num_epochs=30,
        max_steps=0,
        decay="none",
        learning_rate=1e-2,
        warmup_fraction=0.0,
        tokens_per_step=100,
        tokens_per_micro_batch=tokens_per_micro_batch,
        max_grad_norm=1.0,
        weight_decay=0.0,
    )
    steps = Steps(lambda epoch: range(3), EXAMPLES, schedule)
    objectives = {"states": objective, "kl": Distil(divergence=ForwardKL())}
    reduction = Reduction(objectives, {"states": 1.0, "kl": 0.1})  # type: ignore[arg-type]
    return trainer_of(student, EXAMPLES, steps, reduction, teacher_sources={"teacher": teacher})  # type: ignore[dict-item]


@pytest.mark.parametrize("loss", [HiddenMSE(), HiddenCosine(), AttentionRelation(num_relation_heads=2)])
def test_they_come_down_in_training_and_a_base_with_fresh_adapters_has_none(loss: HiddenMSE) -> None:
    other = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    curve = [record.losses["states"] for record in trainer(HiddenDistil(divergence=loss), other).run()]
    assert curve[-1] < 0.9 * curve[0]
    split = next(trainer(HiddenDistil(divergence=loss), other, tokens_per_micro_batch=1).run())
    assert split.losses["states"] == pytest.approx(curve[0], rel=1e-5)
    own = next(trainer(HiddenDistil(divergence=loss), StudentItself(Base())).run())
    assert own.losses["states"] == pytest.approx(0.0, abs=1e-6)


def test_a_family_without_separate_projections_is_refused() -> None:
    student = Student(random_model("gpt2")[0].requires_grad_(False))
    student.reads = ("q_proj", "k_proj", "v_proj")
    from attar.compressors.distill.examples.packing import collate

    with pytest.raises(
        ValueError, match="its blocks have no q_proj, k_proj, v_proj; attention_relation cannot read it"
    ):
        student(collate(EXAMPLES, [0], is_packed=True))
