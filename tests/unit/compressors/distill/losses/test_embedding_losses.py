"""Losses between vectors: zero between equals, in the sign and scale that their formulas say, and gradient to the student alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.distill.examples.sentences import Sentence, collated, sentence_batches
from attar.compressors.distill.losses.divergences.hidden import QUERY_KEY_VALUE
from attar.compressors.distill.losses.embeddings.catalogue import EMBEDDING_LOSSES
from attar.compressors.distill.losses.embeddings.taught import (
    EmbeddingDistance,
    SelfAttentionRelation,
    SimilarityRows,
    TokenDistance,
)
from attar.compressors.distill.losses.embeddings.views import EmbeddingViews

# Those toward a teacher's vectors: pairs have grades, questions with a reasoning views of their own, and both tests of their own.
TAUGHT = [name for name in EMBEDDING_LOSSES if not name.startswith(("pair_", "reasoned_"))]


def views(seed: int = 0, noise: float = 0.3) -> EmbeddingViews:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(6, 8, generator=generator)
    student = (teacher + noise * torch.randn(6, 8, generator=generator)).requires_grad_()
    return with_states(EmbeddingViews(student, teacher.requires_grad_(), teacher_tokens=teacher), student)


def with_states(views: EmbeddingViews, student: torch.Tensor) -> EmbeddingViews:
    """Views in which tokens and projections of the last block are the vectors themselves, of two texts."""
    sides = (student, views.teacher)
    projected = [dict.fromkeys(QUERY_KEY_VALUE, side) for side in sides]
    return replace(
        views,
        student=student,
        student_tokens=student,
        student_projections=projected[0],
        teacher_projections=projected[1],
        sequences=torch.tensor([0, 0, 0, 1, 1, 1]),
    )


@pytest.mark.parametrize("name", TAUGHT)
def test_it_is_zero_between_equals_and_positive_else(name: str) -> None:
    loss = EMBEDDING_LOSSES[name]()
    same = views(noise=0.0)
    assert torch.allclose(loss.terms(same).values, torch.zeros(6), atol=1e-5)
    assert (loss.terms(views()).values > 0).all()


@pytest.mark.parametrize("name", TAUGHT)
def test_a_step_down_the_gradient_comes_nearer(name: str) -> None:
    loss, pair = EMBEDDING_LOSSES[name](), views()
    before = loss.terms(pair).values.sum()
    before.backward()
    assert pair.student.grad is not None
    with torch.no_grad():
        moved = pair.student - 0.01 * pair.student.grad
        after = loss.terms(with_states(pair, moved)).values.sum()
    assert after < before


def test_similarity_rows_are_kl_over_the_other_texts() -> None:
    pair, loss = views(), SimilarityRows(temperature=0.5)
    values = loss.terms(pair).values.detach()
    unit = [torch.nn.functional.normalize(part.detach(), dim=-1) for part in (pair.teacher, pair.student)]  # type: ignore[union-attr]
    for row in range(6):
        others = [index for index in range(6) if index != row]
        p, q = ((side[row] @ side[others].T / 0.5).softmax(0) for side in unit)
        assert float(values[row]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


@pytest.mark.parametrize("by", ["kl", "squared"])
def test_relations_are_of_a_text_s_tokens_over_heads_of_their_own(by: str) -> None:
    pair, loss = views(), SelfAttentionRelation(num_relation_heads=2, by=by)  # type: ignore[arg-type]
    values = loss.terms(pair).values.detach()
    for text in ([0, 1, 2], [3, 4, 5]):
        expected = torch.zeros(3)
        for numbers in (slice(0, 4), slice(4, 8)):
            teacher, student = (side.detach()[text][:, numbers] for side in (pair.teacher, pair.student))  # type: ignore[index]
            p, q = (side @ side.T / 4**0.5 for side in (teacher, student))
            if by == "squared":
                expected += (p - q).square().mean(dim=-1) / 2
            else:
                p, q = p.softmax(dim=-1), q.softmax(dim=-1)
                expected += (p * (p / q).log()).sum(dim=-1) / 2
        assert torch.allclose(values[text], 3 * expected, rtol=1e-4)  # queries, keys and values are alike here


def test_relations_turn_with_nothing_and_stop_at_the_teacher() -> None:
    pair, loss = views(), SelfAttentionRelation()
    loss.terms(pair).values.sum().backward()
    assert pair.student.grad is not None and pair.teacher.grad is None  # type: ignore[union-attr]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2))).Q
    turned = with_states(pair, pair.teacher.detach() @ turn)  # type: ignore[union-attr]
    assert torch.allclose(loss.terms(turned).values, torch.zeros(6), atol=1e-5)
    assert (TokenDistance().terms(turned).values > 0.1).all(), "which another loss would not see so"
    with pytest.raises(ValueError, match="num_relation_heads is 3, which does not divide a projection's width 8"):
        SelfAttentionRelation(num_relation_heads=3).terms(pair)


def test_similarity_rows_take_vectors_of_other_widths_and_a_single_text_says_nothing() -> None:
    wide = EmbeddingViews(torch.randn(4, 8), torch.randn(4, 12))
    assert SimilarityRows().terms(wide).values.shape == (4,)
    assert SimilarityRows().num_terms(collated([Sentence([1, 2])])) == 0
    with pytest.raises(ValueError, match="but nothing stands behind them"):
        TokenDistance().terms(wide)
    with pytest.raises(ValueError, match="the teacher's vectors have 12 numbers, the student's 8"):
        EmbeddingDistance().terms(wide)


def test_squared_is_twice_the_cosine_distance_over_the_width_for_unit_vectors() -> None:
    pair = views()
    unit = EmbeddingViews(*(torch.nn.functional.normalize(part, dim=-1) for part in (pair.student, pair.teacher)))  # type: ignore[arg-type]
    cosine, squared = (EmbeddingDistance(by=by).terms(unit).values for by in ("cosine", "squared"))
    assert torch.allclose(squared, 2 * cosine / 8, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"by": "sum"}, "cosine, squared"),
        ({"num_relation_heads": 0}, "1 or more"),
        ({"num_relation_heads": 2, "by": "sum"}, "squared, kl"),
    ],
)
def test_wrong_parameters_are_refused(loss: dict, message: str) -> None:
    kind = SimilarityRows if "temperature" in loss else EmbeddingDistance
    kind = SelfAttentionRelation if "num_relation_heads" in loss else kind
    with pytest.raises(ValueError, match=message):
        kind(**loss)


def test_batches_hold_every_text_once_within_the_limit() -> None:
    examples = [Sentence(list(range(1, 2 + index % 7))) for index in range(40)]
    batches = list(sentence_batches(examples, range(40), 24))
    assert sum(batch.num_positions for batch in batches) == 40
    assert all(batch.input_ids.numel() <= 24 for batch in batches)
    assert sorted(int(mask.sum()) for batch in batches for mask in batch.attention_mask) == sorted(
        map(len, (e.ids for e in examples))
    )
