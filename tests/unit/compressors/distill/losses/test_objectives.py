"""Objectives: laws every loss obeys, and the one reduction."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objectives import OBJECTIVES, ForwardKL
from attar.compressors.distill.losses.reduction import combine
from attar.compressors.distill.losses.views import Targets, log_remainder
from tests.builders import summed_terms, terms_of

NUM_TOKENS, VOCAB = 12, 17


def random_logprobs(seed: int) -> torch.Tensor:
    return (2 * torch.randn(NUM_TOKENS, VOCAB, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def targets(teacher: torch.Tensor, num_recorded: int, has: torch.Tensor | None = None) -> Targets:
    values, ids = teacher.topk(num_recorded, dim=-1)
    has = torch.ones(NUM_TOKENS, dtype=torch.bool) if has is None else has
    return Targets(teacher.argmax(-1), ids, values, has)


@pytest.mark.parametrize("num_recorded", [1, 5, VOCAB])
def test_kl_of_equal_distributions_is_zero(num_recorded: int) -> None:
    teacher = random_logprobs(0)
    per_token, _ = terms_of(ForwardKL(), teacher, targets(teacher, num_recorded))
    # float32: the remainder is a difference of numbers near one
    torch.testing.assert_close(per_token, torch.zeros(NUM_TOKENS), atol=2e-6, rtol=0)


def test_kl_over_the_whole_vocabulary_is_the_full_kl() -> None:
    teacher, student = random_logprobs(0), random_logprobs(1)
    per_token, speaks = terms_of(ForwardKL(), student, targets(teacher, VOCAB))
    expected = (teacher.double().exp() * (teacher.double() - student.double())).sum(-1)
    torch.testing.assert_close(per_token.double(), expected, atol=1e-5, rtol=0)
    assert speaks.all()


def test_kl_of_the_top_is_a_lower_bound_that_grows_with_k() -> None:
    teacher, student = random_logprobs(0), random_logprobs(1)
    values = torch.stack([terms_of(ForwardKL(), student, targets(teacher, k))[0] for k in range(1, VOCAB + 1)])
    assert (values >= -1e-6).all()
    assert (values.diff(dim=0) >= -1e-5).all(), "merging fewer tokens into one bucket can only raise it"


def test_kl_pulls_the_student_toward_the_teacher() -> None:
    teacher = random_logprobs(0)
    logits = torch.zeros(NUM_TOKENS, VOCAB, requires_grad=True)
    loss = terms_of(ForwardKL(), logits.log_softmax(-1), targets(teacher, VOCAB))[0].sum()
    loss.backward()
    # the gradient of a forward KL in the logits is q - p
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - teacher.exp(), atol=1e-6, rtol=0)


def test_tokens_without_a_teacher_are_silent() -> None:
    teacher, student = random_logprobs(0), random_logprobs(1)
    has = torch.arange(NUM_TOKENS) % 3 == 0
    per_token, speaks = terms_of(ForwardKL(), student, targets(teacher, 4, has))
    assert (per_token[~has] == 0).all() and torch.equal(speaks, has)
    silent, speaks = terms_of(ForwardKL(), student, Targets(student.argmax(-1)))
    assert not speaks.any() and (silent == 0).all()


def test_next_token_is_the_cross_entropy() -> None:
    student = random_logprobs(1)
    ids = torch.arange(NUM_TOKENS) % VOCAB
    per_token, _ = terms_of(NextToken(), student, Targets(ids))
    torch.testing.assert_close(per_token, torch.nn.functional.cross_entropy(student, ids, reduction="none"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_gives_one_finite_number_a_token(name: str) -> None:
    per_token, speaks = terms_of(build(OBJECTIVES, name), random_logprobs(1), targets(random_logprobs(0), 4))
    assert per_token.shape == speaks.shape == (NUM_TOKENS,)
    assert torch.isfinite(per_token).all() and speaks.dtype == torch.bool


def test_splitting_a_step_changes_nothing() -> None:
    """One batch of twelve tokens, or micro-batches of 1, 4 and 7: the same loss."""
    teacher, student = random_logprobs(0), random_logprobs(1)
    has = torch.arange(NUM_TOKENS) < 5
    objectives = {name: build(OBJECTIVES, name) for name in OBJECTIVES}
    weights = {"next_token": 0.5, "forward_kl": 2.0}
    whole = targets(teacher, 4, has)
    sums = summed_terms(objectives, student, whole)
    num_tokens = {name: count for name, (_, count) in sums.items()}
    expected = combine(sums, weights, num_tokens)
    total = torch.zeros(())
    for start, end in ((0, 1), (1, 5), (5, 12)):
        part = Targets(
            *(
                field[start:end]
                for field in (whole.next_ids, whole.teacher_ids, whole.teacher_logprobs, whole.has_teacher)
            )
        )
        total = total + combine(summed_terms(objectives, student[start:end], part), weights, num_tokens)
    torch.testing.assert_close(total, expected, atol=1e-6, rtol=0)


def test_log_remainder_stays_finite_when_the_top_holds_everything() -> None:
    full = torch.tensor([[0.0, -40.0]])
    assert torch.isfinite(log_remainder(full)).all()
