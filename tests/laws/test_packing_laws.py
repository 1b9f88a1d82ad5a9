"""A batch by hand, packed and padded: where each token lies, what predicts it, whose it is, and what a teacher reads in its place."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.examples.packing import Example, batches, collate, units
from attar.compressors.distill.examples.sample_facts import SampleFacts

FACTS = [SampleFacts(reward=float(index)) for index in range(3)]
EXAMPLES = [
    Example([1, 2, 3], [4, 5], facts=FACTS[0], teacher_states=torch.full((2, 2), 0.5), scale=1.0),
    Example([6], [7, 8, 9], facts=FACTS[1], teacher_states=torch.full((3, 2), 1.5), scale=2.0, hinted_ids=[20, 21, 6]),
    Example([10, 11], [12], facts=FACTS[2], teacher_states=torch.full((1, 2), 2.5), scale=3.0),
]
PLAIN = [Example(example.prompt_ids, example.answer_ids) for example in EXAMPLES]


def test_a_padded_batch_by_hand() -> None:
    batch = collate(EXAMPLES, [2, 0, 1], is_packed=False)
    assert batch.input_ids.tolist() == [[10, 11, 12, 0, 0], [1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 1, 2, 3, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert (batch.rows.tolist(), batch.columns.tolist()) == ([0, 1, 1, 2, 2, 2], [1, 2, 3, 0, 1, 2])
    assert batch.next_ids.tolist() == [12, 4, 5, 7, 8, 9] and batch.sequences.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch.locations == [(2, 0, 0), (0, 1, 0), (1, 2, 0)]
    assert batch.facts == (FACTS[2], FACTS[0], FACTS[1])
    assert batch.scales is not None and batch.scales.tolist() == [3.0, 1.0, 2.0]
    assert batch.teacher_states is not None and batch.teacher_states[:, 0].tolist() == [2.5, 0.5, 0.5, 1.5, 1.5, 1.5]
    assert (batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher, batch.prefix) == (None, None, None, None)
    assert (batch.num_positions, batch.num_taught) == (6, 0)


def test_a_packed_batch_by_hand() -> None:
    batch = collate(PLAIN, [2, 1], is_packed=True)
    assert batch.input_ids.tolist() == [[10, 11, 12, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]] and batch.attention_mask is None
    assert (batch.rows.tolist(), batch.columns.tolist()) == ([0, 0, 0, 0], [1, 3, 4, 5])
    assert batch.next_ids.tolist() == [12, 7, 8, 9] and batch.sequences.tolist() == [0, 1, 1, 1]
    assert batch.locations == [(2, 0, 0), (1, 0, 3)]
    assert (batch.hinted, batch.scales, batch.teacher_states) == (None, None, None)


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_teacher_reads_the_same_answers_behind_its_own_context(is_packed: bool) -> None:
    hinted = [Example(e.prompt_ids, e.answer_ids, hinted_ids=e.hinted_ids) for e in EXAMPLES]
    batch = collate(hinted, [0, 1], is_packed=is_packed)
    assert batch.hinted is not None and torch.equal(batch.hinted.next_ids, batch.next_ids)
    expected = [[1, 2, 3, 4, 5, 20, 21, 6, 7, 8, 9]] if is_packed else [[1, 2, 3, 4, 5, 0], [20, 21, 6, 7, 8, 9]]
    assert batch.hinted.input_ids.tolist() == expected
    assert (batch.hinted.attention_mask is None) == is_packed
    assert batch.for_teacher(is_hinted=True, keeps_prefix=False) is batch.hinted
    assert batch.for_teacher(is_hinted=False, keeps_prefix=True) is batch
    alone = collate(PLAIN, [0], is_packed=is_packed)
    assert alone.for_teacher(is_hinted=True, keeps_prefix=True) is alone, (
        "without a hint it reads what the student reads"
    )


def test_another_model_does_not_get_the_students_recorded_states() -> None:
    examples = [Example([1, 2], [3], prefix=torch.ones(3, 4, dtype=torch.bfloat16))]
    batch = collate(examples, [0], is_packed=True)
    assert batch.prefix is not None and batch.prefix.shape == (1, 3, 4) and batch.prefix.dtype == torch.bfloat16
    assert batch.for_teacher(is_hinted=True, keeps_prefix=True) is batch
    other = batch.for_teacher(is_hinted=True, keeps_prefix=False)
    assert other.prefix is None and other.input_ids is batch.input_ids


def test_a_live_teacher_speaks_of_every_token() -> None:
    recorded = Example([1], [2, 3, 4], torch.tensor([[5, 6]]), torch.tensor([[-0.5, -1.0]]))
    batch = collate([recorded, PLAIN[2]], [0, 1], is_packed=True)
    assert batch.has_teacher is not None and batch.teacher_logprobs is not None and batch.teacher_ids is not None
    assert batch.has_teacher.tolist() == [False, False, True, False] and batch.num_taught == 1
    assert batch.teacher_logprobs.tolist() == [[0.0, 0.0], [0.0, 0.0], [-0.5, -1.0], [0.0, 0.0]]
    assert batch.teacher_ids.dtype == torch.long and batch.teacher_ids[2].tolist() == [5, 6]
    taught = batch.taught_throughout()
    assert taught.num_taught == 4 and batch.num_taught == 1


def test_sequences_of_one_prompt_stay_together_and_others_stand_alone() -> None:
    groups = [-1, -1, 0, 0, 1, 0, -1]
    examples = [Example([1], [2], facts=SampleFacts(group=group)) for group in groups]
    assert units(examples, range(7)) == [[0], [1], [2, 3], [4], [5], [6]]
    assert units(examples, [3, 2, 5, 4]) == [[3, 2, 5], [4]]
    assert units(examples, []) == []


@pytest.mark.parametrize(
    ("is_packed", "tokens_per_batch", "expected"),
    [
        # lengths 5, 4, 3: packed sums, padded rows times the longest
        (True, 9, [[0, 1], [2]]),
        (True, 8, [[0], [1, 2]]),
        (True, 12, [[0, 1, 2]]),
        (False, 9, [[0], [1, 2]]),
        (False, 10, [[0, 1], [2]]),
        (False, 15, [[0, 1, 2]]),
        (True, 1, [[0], [1], [2]]),
    ],
)
def test_a_batch_is_as_full_as_its_limit_allows(
    is_packed: bool, tokens_per_batch: int, expected: list[list[int]]
) -> None:
    made = batches(PLAIN, tokens_per_batch=tokens_per_batch, order=range(3), is_packed=is_packed)
    assert [[index for index, _, _ in batch.locations] for batch in made] == expected


def test_a_group_is_never_torn_apart() -> None:
    examples = [Example([1], [2], facts=SampleFacts(group=index // 2)) for index in range(4)]
    made = list(batches(examples, tokens_per_batch=3, order=range(4), is_packed=True))
    assert [batch.locations for batch in made] == [[(0, 0, 0), (1, 0, 2)], [(2, 0, 0), (3, 0, 2)]]
    assert list(batches(examples, tokens_per_batch=3, order=[], is_packed=True)) == []


def test_what_only_some_examples_of_a_batch_have_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="one scale a row"):
        collate(EXAMPLES, [0, 1], is_packed=True)
    with pytest.raises(AssertionError, match="one scale a row"):
        collate([Example([1], [2], scale=1.0), Example([1], [2])], [0, 1], is_packed=False)
    states = torch.zeros(1, 2)
    with pytest.raises(AssertionError, match="the teacher was run over all examples of a batch, or none"):
        collate([Example([1], [2], teacher_states=states), Example([1], [2])], [0, 1], is_packed=False)
    with pytest.raises(AssertionError, match="all examples of a batch were run through the frozen blocks, or none"):
        collate([Example([1], [2], prefix=torch.zeros(2, 2)), Example([1], [2])], [0, 1], is_packed=False)
