"""The protocol carries classes, sentence embeddings, images and a denoiser's states: each learns through the same loop and reduction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.heldout import evaluate_heldout
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets, TokenViews
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence
from attar.compressors.distill.teachers.sources import Ema
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from tests.builders import schedule_of, trainer_of
from tests.unit.compressors.distill.losses.kinds_of_views import (
    KINDS,
    NUM_EXAMPLES,
    FeatureDistance,
    PairViews,
    Samples,
    ScoreMatching,
    model,
    samples,
)

NUM_STEPS = 40


def run_of(kind: str, objective: Any, size: int = NUM_EXAMPLES, *, with_past: bool = False, **more: Any) -> Any:
    student, rows = model(kind, 0, 12), samples(kind)
    teacher_sources: dict[str, Any] = {"teacher": OtherModel(model(kind, 1, 20).requires_grad_(False).eval())}
    if with_past:
        teacher_sources["past"] = StudentItself(Ema(decay=0.5)).begin(student)
    steps = Steps(lambda epoch: range(NUM_EXAMPLES), rows, schedule_of(NUM_STEPS, tokens_per_micro_batch=size))
    reduction = Reduction({"own": objective}, {"own": 1.0}, **more)
    return trainer_of(student, rows, steps, reduction, modality=Samples(kind), teacher_sources=teacher_sources)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_down_through_the_loop_and_is_measured_by_itself(kind: str) -> None:
    run = run_of(kind, KINDS[kind])
    before = evaluate_heldout(run, samples(kind))
    losses = [record.losses["own"] for record in run.run()]
    after = evaluate_heldout(run, samples(kind))
    assert len(losses) == NUM_STEPS and losses[-1] < 0.5 * losses[0]
    assert before.measure == pytest.approx(losses[0], rel=1e-5)
    assert after.measure is not None and after.measure < losses[-1]


# similarity rows are over a batch's own sentences: a smaller batch is another loss
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embeddings"])
def test_the_reduction_masks_and_divides_by_the_terms_of_the_step_however_it_is_split(kind: str) -> None:
    whole, split = (next(run_of(kind, KINDS[kind], size).run()) for size in (NUM_EXAMPLES, 5))
    assert split.losses["own"] == pytest.approx(whole.losses["own"], rel=1e-5)
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    run = run_of(kind, KINDS[kind])
    (batch,) = run.modality.batches(run.examples, range(NUM_EXAMPLES), NUM_EXAMPLES, has_teacher=True)
    with torch.no_grad():
        own, other = (side.outputs(batch) for side in (run.plain_student, run.teacher_sources["teacher"].model))
        if kind == DISTRIBUTIONS:
            targets = Targets(batch.labels, teacher_full=other.logprobs(slice(None)))
            terms = KINDS[kind].terms(TokenViews(own.logprobs(slice(None)), targets))
        else:
            terms = KINDS[kind].terms(PairViews(own.states["hidden"], other.states["hidden"], None, batch))
    assert int(terms.mask.sum()) == KINDS[kind].num_terms(batch) == (16 if kind == "features" else NUM_EXAMPLES)
    assert whole.losses["own"] == pytest.approx(float(terms.values[terms.mask].mean()), rel=1e-5)


def test_the_same_schedules_change_them() -> None:
    """A field of a loss of another kind ramps, and a divergence over classes is switched, as those of tokens are."""
    ramp = LinearRamp(parameter="power", start=0.0, end=2.0, by="step")
    ramped, last = run_of("fields", KINDS["fields"], schedules={"own": (ramp,)}), ScoreMatching(power=2.0)
    assert ramped.measure.objectives["own"] == last
    first = next(ramped.run()).losses["own"]
    assert first == pytest.approx(next(run_of("fields", ScoreMatching(power=0.05)).run()).losses["own"])
    classes = Distil(divergence=ForwardKL())
    switch = SwitchDivergence(to=ReverseKL(), at_fraction=0.5)
    run = run_of(DISTRIBUTIONS, classes, schedules={"own": (switch,)})
    run.step = NUM_STEPS - 1
    reverse = run_of(DISTRIBUTIONS, Distil(divergence=ReverseKL()))
    assert next(run.run()).losses == next(reverse.run()).losses != next(run_of(DISTRIBUTIONS, classes).run()).losses


def test_the_same_teachers_teach_them() -> None:
    """A past self by its rule beside another model; evaluations on held-out samples do not move with it."""
    run = run_of("features", FeatureDistance(share=0.3), with_past=True)
    before = evaluate_heldout(run, run.examples)
    run.teacher_sources["past"].weights = {
        name: 3.0 * value for name, value in run.teacher_sources["past"].weights.items()
    }
    after = evaluate_heldout(run, run.examples)
    assert after.measure == before.measure and after.losses["own"] != pytest.approx(before.losses["own"], rel=1e-3)
    losses = [record.losses["own"] for record in run.run()]
    assert losses[-1] < 0.5 * losses[0]


def test_views_that_a_modality_has_not_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="objective 'own' reads fields; known here: features"):
        next(run_of("features", KINDS["fields"]).run())
