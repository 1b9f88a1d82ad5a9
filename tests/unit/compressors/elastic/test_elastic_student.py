"""An elastic student in a step: its loss is that of its parts alone, the teacher gets nothing, and each part comes nearer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.adapt.elastic import ElasticWeights
from attar.compressors.distill.examples.sentences import Sentence
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.elastic import Elastic, at_subnets
from attar.compressors.distill.loop.heldout import evaluate_heldout
from attar.compressors.distill.loop.sentences import SentenceTexts
from attar.compressors.distill.loop.step_loss import StepLoss, TaughtBatch, taught_by
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.embeddings.taught import SelfAttentionRelation, SimilarityRows
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.elastic import ElasticStudent
from attar.compressors.distill.teachers.encoder import EncoderStudent
from attar.compressors.distill.teachers.sources import Ema
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from attar.compressors.elastic.space import Sandwich, Space
from attar.compressors.encode.encoder import SentenceEncoder
from tests import builders
from tests.unit.compressors.elastic.test_supernet import encoder_of

TEXTS = [Sentence([5, 9, 100 + index, 31, 7 + index][: 3 + index % 3]) for index in range(12)]
SPACE = Space(blocks=(2, 3), width=(16,), heads=(2,), channels=(32,))
LOSSES = Reduction(
    {"relation": SelfAttentionRelation(num_relation_heads=2), "rows": SimilarityRows()}, {"relation": 0.7, "rows": 1.3}
)


def student_of(encoder: SentenceEncoder) -> ElasticStudent:
    ElasticWeights()(encoder.model, 0)
    return ElasticStudent(
        EncoderStudent(encoder), lambda model: EncoderStudent(SentenceEncoder(model, encoder.pooling))
    )


def trainer_of(source: str = "other", *, num_steps: int = 1, sign: float = 1.0) -> Trainer:
    """A training of a random elastic encoder toward another family's, or toward its own running mean."""
    student = student_of(encoder_of())
    sandwich = Sandwich(SPACE.subnets(student.whole), num_drawn=1)
    other = OtherModel(EncoderStudent(encoder_of("mpnet")).eval())  # its weights could learn: nothing asks them to
    teacher = other if source == "other" else StudentItself(Ema(decay=0.9)).begin(student)
    reduction = at_subnets(LOSSES, sandwich.roles)
    return builders.trainer_of(
        student,
        TEXTS,
        Steps(lambda epoch: range(len(TEXTS)), TEXTS, builders.schedule_of(num_steps, 5e-3)),
        replace(reduction, weights={name: sign * weight for name, weight in reduction.weights.items()}),
        modality=Elastic(SentenceTexts(), sandwich),
        teacher_sources={"teacher": teacher},
    )


def test_the_loss_is_the_mean_of_those_of_the_parts_as_models_of_their_own() -> None:
    trainer = trainer_of()
    student, sandwich = trainer.student, trainer.modality.sandwich  # type: ignore[attr-defined] - as built
    [batch] = trainer.modality.batches(TEXTS, range(len(TEXTS)), 1000, has_teacher=True)
    taught = TaughtBatch(batch, taught_by(trainer.teacher_sources, student))
    step = StepLoss.of(trainer.reduction, trainer.modality, lambda: [taught], None)
    together, sums = step.loss(student, student, taught)
    assert set(sums) == {f"{name}_{role}" for name in LOSSES.objectives for role in sandwich.roles}
    expected = torch.zeros(())
    for subnet in sandwich.at(None):
        model = student._supernet.extracted(subnet)
        alone = EncoderStudent(SentenceEncoder(model, student._student[0].pooling))
        alone.reads = student.reads
        plain = StepLoss.of(LOSSES, SentenceTexts(), lambda: [taught], None)
        expected = expected + plain.loss(alone, alone, taught)[0] / len(sandwich.roles)
    assert torch.allclose(together, expected, rtol=1e-5)


def test_the_whole_may_have_a_share_of_its_own() -> None:
    weights = at_subnets(LOSSES, ("largest", "smallest", "drawn_1"), whole_share=0.8).weights
    assert weights["rows_largest"] == pytest.approx(1.3 * 0.8)
    assert weights["rows_smallest"] == weights["rows_drawn_1"] == pytest.approx(1.3 * 0.1)
    assert sum(at_subnets(LOSSES, ("largest", "smallest")).weights.values()) == pytest.approx(2.0)


@pytest.mark.parametrize("source", ["other", "itself"])
def test_the_student_alone_has_a_gradient(source: str) -> None:
    trainer = trainer_of(source)
    teacher = trainer.teacher_sources["teacher"]
    before = {name: value.clone() for name, value in teacher.weights.items()}
    next(trainer.run())
    own = teacher.own_model
    assert own is None or all(p.grad is None for p in own.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.weights.items()), "it follows before a step"
    [batch] = trainer.modality.at(0).batches(TEXTS, range(len(TEXTS)), 1000, has_teacher=True)
    outputs = teacher.speak(trainer.student, batch)
    assert not outputs.hidden.requires_grad and outputs.hidden.shape[-1] == 32, "as a teacher it is the whole"


def test_each_part_comes_nearer_and_with_the_sign_turned_goes_away() -> None:
    measured = {}
    for sign in (1.0, -1.0):
        trainer = trainer_of(num_steps=16, sign=sign)
        roles = trainer.modality.sandwich.roles  # type: ignore[attr-defined] - as built
        before = evaluate_heldout(trainer, TEXTS).losses
        list(trainer.run())
        after = evaluate_heldout(trainer, TEXTS).losses
        measured[sign] = [[some[f"rows_{role}"] for role in roles] for some in (before, after)]
    start, learned = measured[1.0]
    assert all(end < 0.8 * begin for begin, end in zip(start, learned, strict=True)), measured
    start, away = measured[-1.0]
    assert sum(away) > sum(start), measured


def test_a_resumed_training_is_the_same() -> None:
    whole = trainer_of(num_steps=4)
    list(whole.run())
    first = trainer_of(num_steps=4)
    run = first.run()
    next(run)
    state = first.state()
    second = trainer_of(num_steps=4)
    second.restore(state)
    list(second.run())
    for own, other in zip(whole.student.parameters(), second.student.parameters(), strict=True):
        assert torch.equal(own, other)
