"""Chunks that two tokenizers agree on, and the loss of a student that reads with another one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from attar.compressors.distill.examples.chunks import Chunks, chunk_sums, common_ends
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.chunkwise import ChunkwiseDistil
from attar.compressors.distill.losses.divergences.chunked import ChunkLikelihood
from attar.compressors.distill.losses.reduction import Reduction
from tests.builders import OneBatch

TEXT = "the cat sat"


def ends_of(pieces: list[str]) -> list[int]:
    return list(itertools.accumulate(map(len, pieces)))


CUTS = [list(TEXT), ["the", " cat", " sat"], ["th", "e c", "at", " sat"], [TEXT], ["t", "he ", "cat s", "at"]]


@pytest.mark.parametrize(("first", "second"), itertools.product(CUTS, CUTS))
def test_chunks_cover_every_character_once(first: list[str], second: list[str]) -> None:
    pairs = common_ends(ends_of(first), ends_of(second))
    starts = [(0, 0), *pairs]
    texts = [("".join(first[a:b]), "".join(second[c:d])) for (a, c), (b, d) in itertools.pairwise(starts)]
    assert (
        all(student_text == teacher_text and student_text for student_text, teacher_text in texts)
        and "".join(student_text for student_text, _ in texts) == TEXT
    )
    # and none could be cut further
    assert len(pairs) == len(set(ends_of(first)) & set(ends_of(second)))


def test_bytes_of_one_letter_are_not_torn_apart() -> None:
    """Four tokens of one letter's bytes end at the same character; the last of them ends the chunk."""
    assert common_ends([1, 2, 2, 2, 2, 3], [1, 2, 3]) == [(1, 1), (5, 2), (6, 3)]


def byte_nats(text: str) -> list[float]:
    """A bigram model of characters."""
    return [math.log(0.05 + 0.9 * ((7 * ord(a) + 3 * ord(b)) % 11) / 11) for a, b in itertools.pairwise("#" + text)]


@pytest.mark.parametrize(("first", "second"), itertools.product(CUTS, CUTS))
def test_a_model_of_bytes_gives_every_tokenization_the_same_chunks(first: list[str], second: list[str]) -> None:
    nats = byte_nats(TEXT)
    tokens = [chunk_sums(nats, ends_of(pieces)) for pieces in (first, second)]
    pairs = common_ends(ends_of(first), ends_of(second))
    student_sums, teacher_sums = (
        chunk_sums(tokens[0], [a for a, _ in pairs]),
        chunk_sums(tokens[1], [b for _, b in pairs]),
    )
    assert student_sums == pytest.approx(teacher_sums) and sum(student_sums) == pytest.approx(sum(nats))


VOCAB = 6


def example(index: int, teacher: torch.Tensor | None = None, ends: tuple[int, ...] = (1, 3, 6)) -> Example:
    ids = [(5 * index + 2 * shift) % VOCAB for shift in range(6)]
    nats = [-1.0, -2.5, -3.0][: len(ends)]
    if teacher is not None:
        own = teacher.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1).tolist()
        nats = chunk_sums(own, ends)
    return Example([1], ids, facts=SampleFacts(chunks=Chunks(ends, tuple(nats))))


def loss_of(examples: list[Example], logits: torch.Tensor, size: int = 256) -> tuple[torch.Tensor, torch.Tensor, dict]:
    objective = ChunkwiseDistil(divergence=ChunkLikelihood())
    leaf = logits.clone().requires_grad_()
    batch = OneBatch.of(Reduction({"alm": objective}, {"alm": 1.0}), examples, VOCAB, tokens_per_chunk=size)
    loss, sums = batch.loss(leaf)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0], sums


def logits(seed: int, num_sequences: int = 1) -> torch.Tensor:
    return torch.randn(6 * num_sequences, VOCAB, generator=torch.Generator().manual_seed(seed))


def test_equal_tokenizers_and_models_give_single_tokens_and_no_loss() -> None:
    ends = tuple(end for end, _ in common_ends([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]))
    assert ends == (1, 2, 3, 4, 5, 6)
    loss, gradient, sums = loss_of([example(0, logits(0), ends)], logits(0))
    assert float(loss) == pytest.approx(0.0, abs=1e-5) and gradient.abs().max() < 1e-4
    assert sums["alm"][1] == 6, "it counts chunks"
    assert float(loss_of([example(0, logits(1), ends)], logits(0))[0]) > 0.01


def test_loss_and_gradient_are_those_of_the_plain_formula_wherever_it_is_cut() -> None:
    examples = [example(0), example(1, ends=(2, 5)), Example([1], [0, 1, 2, 3, 4, 5])]
    given = logits(3, 3)
    plain = given.clone().requires_grad_()
    total, count = torch.zeros(()), 0
    for index, row in enumerate(examples):
        if row.facts.chunks is None:
            continue
        rows = plain[6 * index : 6 * index + 6].log_softmax(-1)
        own = rows.gather(-1, torch.tensor(row.answer_ids)[:, None]).squeeze(-1)
        for start, end, t in zip(
            (0, *row.facts.chunks.ends), row.facts.chunks.ends, row.facts.chunks.teacher_nats, strict=False
        ):
            p, q = math.exp(t / 100), (own[start:end].sum() / 100).exp()
            total = total + 100 * (p * (math.log(p) - q.log()) + (1 - p) * (math.log(1 - p) - (1 - q).log()))
            count += 1
    (expected,) = torch.autograd.grad(total / count, plain)
    for size in (256, 4, 1):
        loss, gradient, sums = loss_of(examples, given, size)
        assert float(loss) == pytest.approx(float(total / count), rel=1e-3) and sums["alm"][1] == count == 5
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=2e-3)
    assert gradient[12:].abs().max() == 0, "a row without chunks is not learned"


def test_least_loss_is_at_the_teachers_likelihood() -> None:
    """Binary cross-entropy is proper: in s the least is at s = t, from both sides."""
    teacher = torch.tensor([-0.5, -3.0, -20.0], dtype=torch.float64)
    offsets = torch.linspace(-0.4, 0.4, 81, dtype=torch.float64)
    for t in teacher:
        losses = ChunkLikelihood()(t.expand(81), t + offsets)
        assert int(losses.argmin()) == 40 and float(losses[40]) == pytest.approx(0.0, abs=1e-9)
        assert (losses[:40].diff() < 0).all() and (losses[41:].diff() > 0).all()


def test_limit_of_large_tau() -> None:
    """tau KL -> (t - s) + t (log(-s) - log(-t))."""
    t, s = torch.tensor([-0.7, -4.0, -9.0]).double(), torch.tensor([-1.4, -2.0, -9.5]).double()
    limit = (t - s) + t * ((-s).log() - (-t).log())
    values = [ChunkLikelihood(tau=tau, epsilon=1e-9)(t, s) for tau in (1e2, 1e4, 1e6)]
    torch.testing.assert_close(values[2], limit, atol=1e-4, rtol=1e-4)
    assert (values[1] - limit).abs().max() < (values[0] - limit).abs().max()
    # the paper's form, without the factor and the entropy, has tau times less of the same gradient
    leaf = s.clone().requires_grad_()
    p, q = (t / 100).exp(), (leaf / 100).exp()
    (paper,) = torch.autograd.grad(-(p * q.log() + (1 - p) * (1 - q).log()).sum(), leaf)
    other = s.clone().requires_grad_()
    (actual,) = torch.autograd.grad(ChunkLikelihood()(t, other).sum(), other)
    torch.testing.assert_close(actual, 100 * paper, atol=1e-8, rtol=1e-6)


def test_a_certain_student_gets_a_finite_loss() -> None:
    values = ChunkLikelihood()(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 0.0]))
    assert torch.isfinite(values).all()
