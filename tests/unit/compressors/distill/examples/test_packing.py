"""Batches: every learned token appears once, at the place that predicts it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.examples.packing import Example, batches, collate

EXAMPLES = [
    Example([1, 2, 3], [4, 5]),
    Example([6], [7, 8, 9], torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.full((3, 2), -1.0)),
    Example([10, 11], [12]),
]


@pytest.mark.parametrize("is_packed", [True, False])
def test_learned_tokens_follow_the_place_that_predicts_them(is_packed: bool) -> None:
    batch = collate(EXAMPLES, range(3), is_packed=is_packed)
    following = batch.input_ids[batch.rows, batch.columns + 1]
    assert torch.equal(following, batch.next_ids)
    assert batch.next_ids.tolist() == [4, 5, 7, 8, 9, 12]


def test_packed_positions_restart_at_each_example() -> None:
    batch = collate(EXAMPLES, range(3), is_packed=True)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]]
    assert batch.attention_mask is None


def test_teacher_goes_with_its_tokens_only() -> None:
    batch = collate(EXAMPLES, range(3), is_packed=True)
    assert batch.has_teacher is not None and batch.teacher_ids is not None
    assert batch.has_teacher.tolist() == [False, False, True, True, True, False]
    assert batch.teacher_ids[2:5].tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [4, 8, 100])
def test_batches_hold_every_example_once_within_the_limit(is_packed: bool, tokens_per_batch: int) -> None:
    order = [2, 0, 1]
    made = list(batches(EXAMPLES, tokens_per_batch=tokens_per_batch, order=order, is_packed=is_packed))
    learned = torch.cat([batch.next_ids for batch in made]).tolist()
    assert learned == [12, 4, 5, 7, 8, 9]
    longest = max(example.num_tokens for example in EXAMPLES)
    assert all(batch.input_ids.numel() <= max(tokens_per_batch, longest) for batch in made)


def test_teacher_of_the_last_tokens_only_speaks_about_those() -> None:
    partly = Example([1], [2, 3, 4], torch.tensor([[5, 6], [7, 8]]), torch.full((2, 2), -0.7))
    batch = collate([EXAMPLES[1], partly], [1, 0], is_packed=True)
    assert batch.has_teacher is not None and batch.teacher_ids is not None
    assert batch.next_ids.tolist() == [2, 3, 4, 7, 8, 9]
    assert batch.has_teacher.tolist() == [False, True, True, True, True, True]
    assert batch.teacher_ids.tolist() == [[0, 0], [5, 6], [7, 8], [1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("is_packed", [True, False])
def test_recorded_states_lie_where_their_tokens_lie(is_packed: bool) -> None:
    examples = [
        Example([1, 2], [3], prefix=torch.full((3, 4), 1.0)),
        Example([4], [5, 6, 7], prefix=torch.full((4, 4), 2.0)),
    ]
    batch = collate(examples, [1, 0], is_packed=is_packed)
    assert batch.prefix is not None
    of_token = torch.where(batch.input_ids == 0, 0.0, torch.where(batch.input_ids <= 3, 1.0, 2.0))
    torch.testing.assert_close(batch.prefix, of_token[..., None].expand_as(batch.prefix))
    for index, row, start in batch.locations:
        ids = [*examples[index].prompt_ids, *examples[index].answer_ids]
        assert batch.input_ids[row, start : start + len(ids)].tolist() == ids
