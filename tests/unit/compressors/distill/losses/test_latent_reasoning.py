"""Losses of latent reasoning: KL from the explicit view, which it leaves alone, a contrast that teaches it, and steps for as many tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from attar.compressors.distill.examples.reasoning import ReasonedBatch, Reasoning, resampled
from attar.compressors.distill.examples.sentences import Sentence, collated
from attar.compressors.distill.losses.embeddings.latent_reasoning import (
    ReasonedContrast,
    ReasonedScores,
    ReasonedSteps,
)
from attar.compressors.distill.losses.embeddings.pairs import PairContrast, PairDistance
from attar.compressors.distill.losses.embeddings.views import EmbeddingViews

QUESTIONS, LATENTS, WIDTH = 5, 3, 8
SOFT = 0.3  # at the paper's temperatures a softmax over random vectors has no slope left
ALIGNMENTS = [ReasonedScores(temperature=SOFT), ReasonedSteps(temperature=SOFT)]


def views(seed: int = 0) -> EmbeddingViews:
    """Five questions in three rows each, and states of three latent tokens and of as many steps, all to be differentiated."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3 * QUESTIONS, WIDTH, generator=generator).requires_grad_()
    steps = torch.randn(2, QUESTIONS, LATENTS, WIDTH, generator=generator).requires_grad_()
    every = torch.ones(QUESTIONS, dtype=torch.bool)
    return EmbeddingViews(vectors, similarities=torch.zeros(QUESTIONS), steps=steps, has_steps=every)


def sides(some: EmbeddingViews) -> list[torch.Tensor]:
    return [normalize(some.student.detach()[side::3], dim=-1) for side in range(3)]


@pytest.mark.parametrize("loss", ALIGNMENTS)
def test_the_explicit_view_is_a_constant_in_both_alignments(loss: ReasonedScores | ReasonedSteps) -> None:
    some = views()
    loss.terms(some).values.sum().backward()
    assert some.student.grad is not None and some.steps is not None
    latent, text, explicit = (some.student.grad[side::3] for side in range(3))
    assert not explicit.any() and text.any(), "texts learn by the latent view alone"
    assert latent.any() == isinstance(loss, ReasonedScores)
    if isinstance(loss, ReasonedSteps):
        assert some.steps.grad is not None
        assert some.steps.grad[0].any() and not some.steps.grad[1].any(), "steps teach, and learn nothing"


@pytest.mark.parametrize("loss", ALIGNMENTS)
def test_what_texts_learn_is_what_they_learn_toward_given_scores(loss: ReasonedScores | ReasonedSteps) -> None:
    some = views()
    loss.terms(some).values.sum().backward()
    latent, text, explicit = sides(some)
    assert some.steps is not None and some.student.grad is not None
    students, teachers = latent, explicit
    if isinstance(loss, ReasonedSteps):
        students, teachers = normalize(some.steps.detach(), dim=-1)
    target = (teachers @ text.T / SOFT).softmax(dim=-1)  # numbers: no gradient runs through them
    free = some.student.detach()[1::3].clone().requires_grad_()
    scores = (students @ normalize(free, dim=-1).T / SOFT).log_softmax(dim=-1)
    (-(target * scores).sum() / (LATENTS if isinstance(loss, ReasonedSteps) else 1)).backward()
    assert free.grad is not None and torch.allclose(some.student.grad[1::3], free.grad, atol=1e-6)


def test_alignment_is_kl_from_the_explicit_view_to_the_latent() -> None:
    some = views()
    latent, text, explicit = sides(some)
    assert some.steps is not None
    latents, steps = normalize(some.steps.detach(), dim=-1)

    def kl(teacher: torch.Tensor, student: torch.Tensor) -> float:
        p, q = ((vector @ text.T / SOFT).softmax(dim=-1) for vector in (teacher, student))
        return float((p * (p / q).log()).sum())

    scores, by_step = (loss.terms(some).values for loss in ALIGNMENTS)
    for row in range(QUESTIONS):
        assert float(scores[row]) == pytest.approx(kl(explicit[row], latent[row]), rel=1e-4)
        expected = [kl(steps[row, token], latents[row, token]) for token in range(LATENTS)]
        assert float(by_step[row]) == pytest.approx(sum(expected) / LATENTS, rel=1e-4)


def test_views_that_agree_have_nothing_to_teach() -> None:
    some = views()
    vectors, steps = some.student.detach().clone(), some.steps.detach()[1:].expand(2, -1, -1, -1)  # type: ignore[union-attr]
    vectors[0::3] = 3.0 * vectors[2::3]  # a length says nothing
    same = replace(some, student=vectors, steps=steps)
    for loss in ALIGNMENTS:
        assert torch.allclose(loss.terms(same).values, torch.zeros(QUESTIONS), atol=1e-5)
        assert (loss.terms(some).values > 0).all()


@pytest.mark.parametrize("loss", [*ALIGNMENTS, ReasonedContrast(temperature=SOFT)])
def test_a_step_down_the_gradient_comes_nearer(loss: ReasonedScores | ReasonedSteps | ReasonedContrast) -> None:
    some = views()
    before = loss.terms(some).values.sum()
    before.backward()
    assert some.student.grad is not None and some.steps is not None
    with torch.no_grad():
        steps = some.steps if some.steps.grad is None else some.steps - 0.01 * some.steps.grad
        moved = replace(some, student=some.student - 0.01 * some.student.grad, steps=steps)
        assert loss.terms(moved).values.sum() < before


def test_the_contrast_teaches_the_explicit_view_and_leaves_the_latent() -> None:
    some = views()
    terms = ReasonedContrast(temperature=SOFT).terms(some)
    terms.values.sum().backward()
    assert some.student.grad is not None
    latent, text, explicit = (some.student.grad[side::3] for side in range(3))
    assert not latent.any() and text.any() and explicit.any()
    _, text, explicit = sides(some)
    expected = -(explicit @ text.T / SOFT).log_softmax(dim=-1).diagonal()
    assert torch.allclose(terms.values.detach(), expected, atol=1e-5)


def test_losses_of_pairs_read_the_first_two_of_three_rows() -> None:
    some = views()
    pairs = torch.stack([some.student[0::3], some.student[1::3]], dim=1).flatten(0, 1)
    alone = EmbeddingViews(pairs, similarities=some.similarities)
    for loss in (PairContrast(), PairDistance()):
        assert torch.equal(loss.terms(some).values, loss.terms(alone).values)


def test_a_question_whose_steps_were_cut_or_that_stands_alone_has_none() -> None:
    whole, cut = Reasoning([4, 5, 6], (0,), [(1, 2)]), Reasoning([4, 5], (0,), [])
    batch = collated([Sentence([9, 4], other=[7], reasoning=some) for some in (whole, cut, whole)])
    assert batch.num_positions == 9 and ReasonedSteps().num_terms(batch) == 2
    assert [loss.num_terms(batch) for loss in (ReasonedScores(), ReasonedContrast(), PairContrast())] == [3, 3, 3]
    some = replace(views(), has_steps=torch.tensor([True, False, True, True, True]))
    assert ReasonedSteps().terms(some).mask.tolist() == [True, False, True, True, True]
    single = collated([Sentence([9, 4], other=[7], reasoning=whole)])
    assert [loss.num_terms(single) for loss in (ReasonedSteps(), ReasonedScores(), ReasonedContrast())] == [0, 0, 0]
    lone = EmbeddingViews(torch.randn(3, 4), similarities=torch.zeros(1), steps=torch.randn(2, 1, 1, 4))
    terms = ReasonedSteps().terms(replace(lone, has_steps=torch.ones(1, dtype=torch.bool)))
    assert not terms.mask.any()


def test_steps_are_spread_evenly_or_the_last_is_repeated() -> None:
    steps = [(index, index + 1) for index in range(6)]
    assert resampled(steps, 3) == [steps[0], steps[2], steps[5]]  # 0, 2.5 and 5, rounded down
    assert resampled(steps[:2], 4) == [steps[0], steps[1], steps[1], steps[1]]
    assert resampled(steps, 6) == steps and resampled(steps, 1) == steps[:1]
    assert resampled([], 3) == [] and resampled(steps, 0) == []


def test_states_are_those_of_latent_tokens_and_the_mean_of_each_step() -> None:
    reasonings = [Reasoning([1] * 6, (1, 2), [(2, 4), (4, 6)]), Reasoning([1] * 3, (2, 3), [])]
    batch = ReasonedBatch.of(reasonings, 6)
    states = torch.randn(4, 6, 6, WIDTH)  # of four exits, two questions in three rows
    own, steps = batch.states(states).unbind(dim=-4)
    assert own.shape == steps.shape == (4, 2, 2, WIDTH)
    assert torch.equal(own[:, 0, 1], states[:, 0, 2]) and torch.equal(own[:, 1, 0], states[:, 3, 2])
    assert torch.allclose(steps[:, 0, 0], states[:, 2, 2:4].mean(dim=1), atol=1e-6) and not steps[:, 1].any()


@pytest.mark.parametrize("kind", [ReasonedContrast, ReasonedScores, ReasonedSteps])
def test_no_softmax_is_taken_at_no_temperature(kind: type[ReasonedContrast]) -> None:
    with pytest.raises(ValueError, match="accepted: above 0"):
        kind(temperature=0.0)
    with pytest.raises(ValueError, match="these are single texts|the batch brings none"):
        kind().terms(EmbeddingViews(torch.randn(4, 8)))
