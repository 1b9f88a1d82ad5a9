"""Teachers that are the student itself: its base, its start, a running mean."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from attar.compressors.adapt.lora import Lora
from attar.compressors.adapt.weights import FullWeights
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity, Mix
from attar.compressors.distill.losses.weights.coefficients import LinearRamp
from attar.compressors.distill.teachers.sources import Base, Ema, Generation, Live, PreviousEpoch, SelfRule, Start
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from attar.compressors.models.trained_weights import trained_weights
from attar.stages.ingest.tiny_model import random_model
from tests.unit.compressors.distill.teachers.small_training import (
    EXAMPLES,
    trainer,
)


def logprobs_of(rule: SelfRule, student: Student, *, is_hinted: bool = True) -> torch.Tensor:
    batch = collate(EXAMPLES, range(4), is_packed=True)
    source = StudentItself(rule, is_hinted).begin(student)
    return source.speak(student, batch).logprobs(slice(None))


def test_base_is_the_students_own_base_without_a_second_model() -> None:
    base, _ = random_model("llama")
    batch = collate(EXAMPLES, range(4), is_packed=True)
    copy = Student(random_model("llama")[0].requires_grad_(False)).eval()
    expected = OtherModel(copy).speak(copy, batch).logprobs(slice(None))
    student = Student(Lora(rank=2)(base, 0))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    before = {id(parameter) for parameter in student.parameters()}
    source = StudentItself(Base()).begin(student)
    # the same tensors, one by one: nothing is kept, so nothing costs memory
    assert source.weights == {} and {id(parameter) for parameter in student.parameters()} == before
    assert torch.equal(source.speak(student, batch).logprobs(slice(None)), expected)
    assert (logprobs_of(Live(), student) - expected).abs().max() > 0.01, "with its adapters on it says something else"
    assert all(p.requires_grad for n, p in student.named_parameters() if "lora_" in n) and student.training
    with pytest.raises(ValueError, match="the base is a teacher only under low-rank adapters"):
        StudentItself(Base()).begin(Student(FullWeights()(random_model("llama")[0], 0)))


def test_a_live_teacher_without_a_hint_gives_no_loss_and_no_gradient() -> None:
    plain = [Example(example.prompt_ids, example.answer_ids) for example in EXAMPLES]
    run = trainer(10_000, Accelerator(cpu=True))
    run.examples, run.teacher_sources = plain, {"teacher": StudentItself(Live()).begin(run.plain_student)}
    run.reduction = Reduction({"kl": Distil(divergence=ForwardKL())}, {"kl": 1.0})
    record = next(run.run())
    assert record.losses["kl"] == pytest.approx(0.0, abs=1e-6) and record.grad_norm < 1e-5
    hinted = trainer(10_000, Accelerator(cpu=True))
    hinted.teacher_sources = {"teacher": StudentItself(Live()).begin(hinted.plain_student)}
    hinted.reduction = run.reduction
    assert next(hinted.run()).losses["kl"] > 1e-4, "what only the teacher reads makes a difference"


def test_rules_follow_the_student_as_they_say() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    name = next(iter(trained_weights(student)))
    parameter = dict(student.named_parameters())[name]
    rules = {
        "start": Start(),
        "ema": Ema(decay=0.75, every=2),
        "epoch": PreviousEpoch(),
        "generation": Generation(num_epochs=2),
    }
    teacher_sources = {key: StudentItself(rule).begin(student) for key, rule in rules.items()}
    first = parameter.detach().clone()
    values = [first]
    for step in range(8):  # epochs of two steps
        clock = Clock(step, 8, step // 2, 4, step % 2 == 0)
        for source in teacher_sources.values():
            source.advance(student, clock)
        if step == 6:
            weights_by_rule = {key: source.weights[name] for key, source in teacher_sources.items()}
            assert torch.equal(weights_by_rule["start"], first)
            assert torch.equal(weights_by_rule["epoch"], values[6]) and torch.equal(
                weights_by_rule["generation"], values[4]
            )
            ema = first
            for past in (2, 4, 6):
                ema = 0.75 * ema + 0.25 * values[past]
            torch.testing.assert_close(weights_by_rule["ema"], ema)
        with torch.no_grad():
            parameter += 1.0
        values.append(parameter.detach().clone())


def test_kept_weights_are_in_the_state_and_come_back() -> None:
    run = trainer(10_000, Accelerator(cpu=True), max_steps=4)
    steps = run.run()
    next(steps)
    next(steps)
    state = copy.deepcopy(run.state())  # what a file would hold: the optimizer moves its own in place
    other = trainer(10_000, Accelerator(cpu=True), max_steps=4, seed=5)
    other.restore(state)
    assert [answer.losses for answer in other.run()] == [step.losses for step in steps]


def test_a_ramp_changes_the_objective_while_it_trains() -> None:
    run = trainer(10_000, Accelerator(cpu=True), max_steps=4)
    objective = Distil(divergence=ForwardKL(), target=Mix(share=0.0, first="labels", second="teacher"))
    run.reduction = Reduction(
        {"kl": objective}, {"kl": 1.0}, schedules={"kl": (LinearRamp(parameter="weight", end=1.0),)}
    )
    weights = [run.reduction.at(run.clock(step)).weights["kl"] for step in range(4)]
    assert weights == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()


def test_identity_of_a_source_that_is_not_there_is_an_error() -> None:
    run = trainer(10_000, Accelerator(cpu=True))
    run.reduction = Reduction({"kl": Distil(divergence=ForwardKL(), target=Identity(of="anchor"))}, {"kl": 1.0})
    with pytest.raises(ValueError, match="reads 'anchor', but nothing stands behind it"):
        next(run.run())
