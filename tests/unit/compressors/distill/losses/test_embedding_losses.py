"""Losses between vectors: zero between equals, in the sign and scale that their formulas say, and gradient to the student alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.distill.examples.sentences import Sentence, collated, sentence_batches
from attar.compressors.distill.losses.embeddings.catalogue import EMBEDDING_LOSSES
from attar.compressors.distill.losses.embeddings.taught import EmbeddingDistance, SimilarityRows, TokenDistance
from attar.compressors.distill.losses.embeddings.views import EmbeddingViews

# Those toward a teacher's vectors: pairs have grades, questions with a reasoning views of their own, and both tests of their own.
TAUGHT = [name for name in EMBEDDING_LOSSES if not name.startswith(("pair_", "reasoned_"))]


def views(seed: int = 0, noise: float = 0.3) -> EmbeddingViews:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(6, 8, generator=generator)
    student = (teacher + noise * torch.randn(6, 8, generator=generator)).requires_grad_()
    return EmbeddingViews(student, teacher.requires_grad_(), student_tokens=student, teacher_tokens=teacher)


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
        after = loss.terms(replace(pair, student=moved, student_tokens=moved)).values.sum()
    assert after < before


def test_similarity_rows_are_kl_over_the_other_texts() -> None:
    pair, loss = views(), SimilarityRows(temperature=0.5)
    values = loss.terms(pair).values.detach()
    unit = [torch.nn.functional.normalize(part.detach(), dim=-1) for part in (pair.teacher, pair.student)]  # type: ignore[union-attr]
    for row in range(6):
        others = [index for index in range(6) if index != row]
        p, q = ((side[row] @ side[others].T / 0.5).softmax(0) for side in unit)
        assert float(values[row]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


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


@pytest.mark.parametrize(("loss", "message"), [({"temperature": 0.0}, "above 0"), ({"by": "sum"}, "cosine, squared")])
def test_wrong_parameters_are_refused(loss: dict, message: str) -> None:
    kind = SimilarityRows if "temperature" in loss else EmbeddingDistance
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
