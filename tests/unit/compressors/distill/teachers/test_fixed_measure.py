"""Looks at held-out rows are compared by a function of the student's weights alone: not of the step, and not of its own past."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.adapt.weights import FullWeights
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.loop.heldout import evaluate_heldout
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, Jeffreys, ReverseKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity, Mix
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence
from attar.compressors.distill.losses.weights.token_weights import EntropyWeight
from attar.compressors.distill.teachers.sources import SELF_RULES, Base, Ema, Generation, Live, PreviousEpoch, Start
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.stages.ingest.tiny_model import random_model
from tests.builders import trainer_of

EXAMPLES = [Example([5, 9 + i], [20 + i, 40, 60 + 2 * i, 80]) for i in range(6)]
SCHEDULE = Schedule(
    num_epochs=5,
    max_steps=0,
    decay="none",
    learning_rate=1e-2,
    warmup_fraction=0.0,
    tokens_per_step=1000,
    tokens_per_micro_batch=1000,
    max_grad_norm=1e9,
    weight_decay=0.0,
)
TO_LABELS = Distil(divergence=CrossEntropy(), target=Identity(of="labels"))
PAST = Distil(divergence=CrossEntropy(), target=Mix(share=0.8, first="past", second="labels"))
META = Distil(divergence=ForwardKL(), target=Mix(share=0.3, first="anchor", second="past"))


def trainer(
    objectives: dict[str, Objective],
    teacher_sources: dict[ViewName, TeacherSource] | None = None,
    past: object = None,
    **more: object,
) -> Trainer:
    torch.manual_seed(0)
    student = Student(FullWeights()(random_model("llama")[0], 0))
    teacher_sources = dict(teacher_sources or {})
    if past is not None:
        teacher_sources["past"] = StudentItself(past).begin(student)  # type: ignore[arg-type]
    reduction = Reduction(objectives, dict.fromkeys(objectives, 1.0), **more)  # type: ignore[arg-type]
    steps = Steps(lambda epoch: range(len(EXAMPLES)), EXAMPLES, SCHEDULE)
    return trainer_of(student, EXAMPLES, steps, reduction, teacher_sources=teacher_sources)


def other(seed: int = 1) -> OtherModel:
    return OtherModel(Student(random_model("llama", seed=seed)[0].requires_grad_(False)).eval())


CHANGING = {
    "two stages": {"own": (SwitchDivergence(to=ReverseKL(), at_fraction=0.5),)},
    "a stage that reads higher": {"own": (SwitchDivergence(to=Jeffreys(), at_fraction=0.5),)},
    "a ramp of weight": {"labels": (LinearRamp(parameter="weight", start=0.0, end=2.0, by="step"),)},
}


@pytest.mark.parametrize("name", CHANGING)
def test_the_same_weights_measure_the_same_at_every_step(name: str) -> None:
    objectives = {"own": Distil(divergence=ForwardKL()), "labels": TO_LABELS}
    run = trainer(objectives, {"teacher": other()}, schedules=CHANGING[name])
    evaluations = []
    for step in range(run.num_steps + 1):
        run.step = step
        evaluations.append(evaluate_heldout(run, EXAMPLES))
    assert len({evaluation.measure for evaluation in evaluations}) == 1, "nothing was learned between the evaluations"
    run.step = run.num_steps
    last = evaluate_heldout(run, EXAMPLES)
    weight = 2.0 if "weight" in name else 1.0
    assert last.measure == pytest.approx(last.losses["own"] + weight * last.losses["labels"], rel=1e-6), "as it ends"
    if "weight" not in name:
        assert evaluations[0].losses["own"] != pytest.approx(last.losses["own"], rel=1e-3), "as it is at the time"


@pytest.mark.parametrize("rule", [Live(), PreviousEpoch(), Ema(decay=0.5), Generation()])
@pytest.mark.parametrize("name", ["labels", "anchor", "weight"])
def test_what_the_past_says_moves_no_measure(name: str, rule: object) -> None:
    """PS-KD's target is the student's own past: a past that grows unsure, or sure, would make every later evaluation better."""
    entropy = Distil(divergence=ForwardKL(), target=Identity(of="past"), token_weights=(EntropyWeight(),))
    objective = {"labels": PAST, "anchor": META, "weight": entropy}[name]
    teacher_sources: dict[ViewName, TeacherSource] = {"anchor": other()}
    if name == "weight":
        teacher_sources = {"teacher": StudentItself(rule)}  # type: ignore[arg-type]
    run = trainer({"own": objective}, teacher_sources, past=rule)
    before = evaluate_heldout(run, EXAMPLES)
    past = run.teacher_sources["past"]
    past.weights = {key: 3.0 * value for key, value in past.weights.items()}
    after = evaluate_heldout(run, EXAMPLES)
    assert after.measure == before.measure
    if not isinstance(rule, Live):
        assert after.losses["own"] != pytest.approx(before.losses["own"], rel=1e-3)


def test_a_target_that_keeps_a_share_of_a_model_is_measured_by_the_distance_to_that_model() -> None:
    run = trainer({"own": META}, {"anchor": other()}, past=Generation())
    alone = trainer({"own": Distil(divergence=ForwardKL(), target=Identity(of="anchor"))}, {"anchor": other()})
    assert evaluate_heldout(run, EXAMPLES).measure == pytest.approx(
        evaluate_heldout(alone, EXAMPLES).losses["own"], rel=1e-6
    )


def test_a_target_of_ones_own_past_and_the_labels_is_measured_by_the_labels() -> None:
    run, alone = trainer({"own": PAST}, past=PreviousEpoch()), trainer({"own": NextToken()})
    assert evaluate_heldout(run, EXAMPLES).measure == pytest.approx(
        evaluate_heldout(alone, EXAMPLES).losses["own"], rel=1e-6
    )


def test_an_objective_that_does_not_change_is_its_own_measure() -> None:
    run = trainer({"own": Distil(divergence=ForwardKL()), "labels": TO_LABELS}, {"teacher": other()}, past=Start())
    evaluation = evaluate_heldout(run, EXAMPLES)
    assert evaluation.measure == evaluation.losses["own"] + evaluation.losses["labels"] and set(evaluation.losses) == {
        "own",
        "labels",
    }


def test_beside_a_policy_loss_nothing_is_a_measure() -> None:
    """A pull to where training began is least before the first step: judged by it alone, no step would ever be kept."""
    run = trainer(
        {"policy": Distil(divergence=ClippedRatio()), "pull": Distil(divergence=ForwardKL())}, {"teacher": other()}
    )
    evaluation = evaluate_heldout(run, EXAMPLES)
    assert evaluation.measure is None and set(evaluation.losses) == {"pull"}


def test_every_rule_says_whether_it_moves() -> None:
    assert {name for name, rule in SELF_RULES.items() if not rule.moves} == {"base", "start"}
    assert not Base().moves and not Start().moves
