"""`reduction: sequence`: the mean of each answer first, then of the answers; `token`: of all tokens alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.adapt.weights import FullWeights
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.losses.composite import Distil, Mean
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity
from attar.compressors.distill.losses.weights.token_weights import Clip
from attar.compressors.distill.teachers.student import Student
from attar.stages.finetune.objective_spec import ObjectiveSpec
from attar.stages.ingest.tiny_model import random_model
from tests.builders import trainer_of

LENGTHS = (1, 3, 7, 20)


def example(index: int, length: int, *, is_recorded: bool = False) -> Example:
    generator = torch.Generator().manual_seed(index)
    prompt, answer = (torch.randint(3, 200, (count,), generator=generator).tolist() for count in (4, length))
    facts = SampleFacts(
        group=0, advantage=float(index) - 1.5, old_logprobs=torch.full((length,), -5.5), is_correct=index % 2 == 0
    )
    made = Example(prompt, answer, facts=facts, name=str(index))
    if not is_recorded:
        return made
    ids = torch.randint(3, 200, (length, 4), generator=generator).sort(dim=-1).values + torch.arange(4)
    return replace(made, top_ids=ids, top_logprobs=torch.full((length, 4), -2.0))


def losses(objective: Distil, examples: list[Example], tokens_per_micro_batch: int = 4096) -> float:
    """The loss of one training step on these examples, as its record tells it."""
    torch.manual_seed(0)
    student = Student(FullWeights()(random_model("llama")[0], 0))
    schedule = Schedule(
        num_epochs=1,
        max_steps=0,
        decay="none",
        learning_rate=1e-3,
        warmup_fraction=0.0,
        tokens_per_step=4096,
        tokens_per_micro_batch=tokens_per_micro_batch,
        max_grad_norm=1e9,
        weight_decay=0.0,
    )
    steps = Steps(lambda epoch: range(len(examples)), examples, schedule)
    run = trainer_of(student, examples, steps, Reduction({"own": objective}, {"own": 1.0}))
    record = next(run.run())
    return record.losses["own"]


TO_LABELS = Distil(divergence=CrossEntropy(), target=Identity(of="labels"))
OBJECTIVES = {
    "labels": TO_LABELS,
    "clipped": replace(TO_LABELS, token_weights=(Clip(limit_nats=5.6),)),
    "routed": replace(TO_LABELS, route="correct"),
    "policy": Distil(divergence=ClippedRatio()),
}
EXAMPLES = [example(index, length) for index, length in enumerate(LENGTHS)]


def both(objective: Distil, examples: list[Example], **options: int) -> dict[Mean, float]:
    reductions: tuple[Mean, ...] = ("token", "sequence")
    return {reduction: losses(replace(objective, reduction=reduction), examples, **options) for reduction in reductions}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_the_mean_over_answers_of_their_own_means(name: str) -> None:
    alone = [losses(OBJECTIVES[name], [example]) for example in EXAMPLES]
    results = both(OBJECTIVES[name], EXAMPLES)
    by_token = sum(value * length for value, length in zip(alone, LENGTHS, strict=True)) / sum(LENGTHS)
    assert results["token"] == pytest.approx(by_token, rel=1e-5)
    assert results["sequence"] == pytest.approx(sum(alone) / len(alone), rel=1e-5)
    assert results["token"] != pytest.approx(results["sequence"], rel=1e-3), "the answers are of unlike length"


def test_answers_of_one_length_have_one_mean() -> None:
    results = both(TO_LABELS, [example(index, 5) for index in range(4)])
    assert results["token"] == pytest.approx(results["sequence"], rel=1e-6)


def test_micro_batches_change_no_mean() -> None:
    whole, split = both(TO_LABELS, EXAMPLES), both(TO_LABELS, EXAMPLES, tokens_per_micro_batch=16)
    assert split == pytest.approx(whole, rel=1e-5)


def test_answers_without_a_recorded_teacher_count_in_neither() -> None:
    objective = Distil(divergence=ForwardKL())
    recorded = [example(index, length, is_recorded=True) for index, length in enumerate(LENGTHS)]
    mixed = [recorded[0], EXAMPLES[1], recorded[2], EXAMPLES[3]]
    alone = [losses(objective, [recorded[index]]) for index in (0, 2)]
    results = both(objective, mixed)
    assert results["sequence"] == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert results["token"] == pytest.approx((alone[0] * 1 + alone[1] * 7) / 8, rel=1e-5)


def test_a_recipe_says_it_where_there_are_tokens_to_take_means_of() -> None:
    spec = ObjectiveSpec(divergence="forward_kl", reduction="sequence")
    made = spec.objective()
    assert isinstance(made, Distil) and made.reduction == "sequence"
    for divergence in ("anchored_listwise", "chunk_likelihood"):
        with pytest.raises(ValueError, match="reduction has nothing to act on"):
            ObjectiveSpec(divergence=divergence, reduction="sequence").objective()
    with pytest.raises(ValueError, match="'token' or 'sequence'"):
        ObjectiveSpec(divergence="forward_kl", reduction="answer")  # type: ignore[arg-type]
