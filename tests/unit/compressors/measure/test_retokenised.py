"""Closeness over two vocabularies: KL where they are one, and by hand where a token is written in two pieces."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from attar.compressors.measure.retokenised import Aligned, first_pieces, retokenised_closeness


def table_model(logits: torch.Tensor) -> SimpleNamespace:
    """A model that gives the same table of logits whatever it reads."""

    class Table:
        device = torch.device("cpu")

        def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(logits=logits[None, : input_ids.shape[1]])

    return Table()  # type: ignore[return-value]


def test_one_vocabulary_gives_the_kl_of_each_token() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 7, generator=generator) for _ in range(2))
    text = Aligned([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 1, 3, 1], [1, 2, 1, 3, 1])
    result = retokenised_closeness(table_model(q), table_model(p), text, torch.arange(7))
    expected = sum(
        float(torch.nn.functional.kl_div(q[row].log_softmax(-1), p[row].softmax(-1), reduction="sum"))
        for row in range(4)
    )
    assert result.num_tokens == 4
    assert result.kl_nats == pytest.approx(expected, rel=1e-5)


def test_a_removed_token_counts_its_first_piece_in_the_kl_and_the_rest_whole() -> None:
    # old vocabulary: 0 "a", 1 "b", 2 "ab"; the student has "a" and "b"
    p = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(2, 3)
    q = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]]).log()
    text = Aligned(ids=[0, 2], student_ids=[0, 0, 1], lengths=[1, 2], student_lengths=[1, 1, 1])
    firsts = first_pieces(3, {0: 0, 1: 1}, {2: [0, 1]})
    result = retokenised_closeness(table_model(q), table_model(p), text, firsts)
    pushed = {0: 0.7, 1: 0.3}  # "ab" begins with "a"
    expected = sum(share * math.log(share / float(q[0, piece].exp())) for piece, share in pushed.items()) - math.log(
        0.9
    )
    assert result.kl_nats == pytest.approx(expected, rel=1e-5)
    assert result.num_tokens == 1


def test_segments_lie_between_boundaries_that_both_have() -> None:
    text = Aligned([0, 1, 2], [0, 1, 2, 3], lengths=[2, 3, 1], student_lengths=[2, 1, 2, 1])
    assert text.segments() == [(slice(0, 1), slice(0, 1)), (slice(1, 2), slice(1, 3)), (slice(2, 3), slice(3, 4))]


def test_sequences_of_two_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one text"):
        Aligned([0], [0], [2], [3]).segments()
