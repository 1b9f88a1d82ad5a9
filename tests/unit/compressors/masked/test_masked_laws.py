"""Laws of training to fill masks: what is hidden, what each token sees, what is learned (dParallel)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from attar.compressors.distill.examples.masked import HiddenView, hidden_views, hide, with_whole_blocks
from attar.compressors.distill.examples.packing import Batch, Example, collate
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.loop.masked import MaskedText, sees_both_sides
from attar.compressors.distill.losses.objectives import ForwardKL
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.form import CONFIG_KEY, MaskedForm
from attar.compressors.masked.hiding import HIDING_RULES, Complements, RandomCount
from tests.builders import terms_of
from tests.unit.compressors.masked.small_filler import CERTAINTY, END, FORM, MASK, examples, small_model


class RunningSum(nn.Module):
    """Reads as a recurrent model does, whose state is of every token before."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 4)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.table(batch.input_ids).cumsum(dim=1)[batch.rows, batch.columns]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 32])
def test_two_views_hide_every_token_of_a_block_once(num_tokens: int) -> None:
    views = Complements(fraction=0.5)(num_tokens, drawn(num_tokens))
    assert torch.stack(views).long().sum(dim=0).tolist() == [1] * num_tokens
    assert all(bool(view.any()) for view in views)
    assert num_tokens == 1 or abs(int(views[0].sum()) - num_tokens / 2) < 1


@pytest.mark.parametrize("name", HIDING_RULES)
def test_every_view_hides_something(name: str) -> None:
    rule = HIDING_RULES[name]()
    assert all(bool(view.any()) and len(view) == 7 for seed in range(20) for view in rule(7, drawn(seed)))


def test_every_number_of_hidden_tokens_is_drawn_from_the_lowest_on() -> None:
    counts = {int(RandomCount(lowest_fraction=0.5)(4, drawn(seed))[0].sum()) for seed in range(60)}
    assert counts == {2, 3, 4}


def batch_of(example: Example, hidden: list[int], form: MaskedForm = FORM) -> Batch:
    """Return a batch of one example of which some tokens of the answer are hidden."""
    mask = torch.zeros(len(example.answer_ids), dtype=torch.bool)
    mask[hidden] = True
    return hide(collate([example], [0], is_packed=False), [HiddenView(example, mask)], form)


def test_hidden_tokens_alone_are_learned_and_masked() -> None:
    batch = batch_of(Example([7, 8], [9, 10, 11, END]), [1, 3])
    assert batch.input_ids.tolist() == [[7, 8, 9, MASK, 11, MASK]]
    assert batch.next_ids.tolist() == [10, END] and batch.columns.tolist() == [2, 4] and batch.num_positions == 2


def test_a_token_is_told_by_its_block_and_by_nothing_behind_it() -> None:
    """The second of the first block is hidden: the block's last token tells of it, the next block does not, and the prompt hears nothing."""
    student = Student(small_model()).eval()

    def states(answer: list[int], hidden: int = 1) -> torch.Tensor:
        with torch.no_grad():
            return student(batch_of(Example([7, 8], answer), [hidden]))

    before = states([9, 10, 11, 12, 13, 14, 15, 16])
    assert not torch.equal(before, states([9, 10, 11, 99, 13, 14, 15, 16]))
    assert torch.allclose(before, states([9, 10, 11, 12, 13, 14, 15, 99]), atol=1e-6)
    # told by the prompt's last token, which sees what is before it alone
    first = states([9, 10, 11, 12], hidden=0)
    assert torch.allclose(first, states([9, 10, 11, 99], hidden=0), atol=1e-6)


def test_padding_changes_nothing() -> None:
    student = Student(small_model()).eval()
    short, long = examples()[2], examples()[1]
    view = HiddenView(short, torch.tensor([True, False, True, False]))
    alone = hide(collate([short], [0], is_packed=False), [view], FORM)
    other = HiddenView(long, torch.tensor([False] * 4 + [True, False, True, True]))
    together = hide(collate([long, short], [0, 1], is_packed=False), [other, view], FORM)
    with torch.no_grad():
        assert torch.allclose(student(alone), student(together)[3:], atol=1e-5)


def test_certainty_pulls_at_no_token_that_is_predicted_wrong() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.5, 2.0, 0.0], [0.0, 0.1, 0.2]], requires_grad=True)
    next_ids = torch.tensor([0, 0, 2])  # the second is predicted wrong
    stats = TokenStats(torch.zeros(3, dtype=torch.long), (SampleFacts(),))
    stats = replace(stats, is_first_choice=logits.detach().argmax(dim=-1) == next_ids)
    loss, _ = terms_of(CERTAINTY, logits.log_softmax(dim=-1), Targets(next_ids, stats=stats))
    loss.sum().backward()
    assert logits.grad is not None and not logits.grad[1].any()
    assert logits.grad[0, 0] < 0 and logits.grad[2, 2] < 0, "a step down makes what is right likelier"


def test_draws_depend_on_step_and_example_and_not_on_micro_batches() -> None:
    texts, order = examples(), [2, 0, 1]
    modality = MaskedText(FORM, Complements(), seed=1)

    def hidden(step: int, limit: int) -> list[tuple[int, ...]]:
        return [
            tuple(row)
            for batch in modality.at(step).batches(texts, order, limit, has_teacher=False)
            for row in batch.input_ids.tolist()
        ]

    def unpadded(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return sorted(tuple(token for token in row if token) for row in rows)

    assert unpadded(hidden(4, 1000)) == unpadded(hidden(4, 1))
    assert len({str(hidden(step, 1000)) for step in range(8)}) > 1
    held_out = [str(next(iter(modality.batches(texts, order, 1000, has_teacher=False))).input_ids) for _ in range(2)]
    assert held_out[0] == held_out[1]


def test_one_block_of_a_longer_answer_is_learned_and_what_is_behind_it_left_out() -> None:
    long = examples()[1]
    ends = set()
    for seed in range(12):
        for view in hidden_views(long, FORM, Complements(), 0, drawn(seed)):
            ends.add(len(view.example.answer_ids))
            assert not view.hidden[:-4].any(), "blocks before are seen as they are"
    assert ends == {4, 8}


def test_an_answer_is_filled_up_with_its_end_and_a_recorded_teacher_is_sure_of_it() -> None:
    recorded = torch.tensor([[9, 4], [END, 5]]), torch.tensor([[-0.1, -3.0], [-0.2, -2.0]])
    padded = with_whole_blocks(Example([7], [9, END], *recorded), 4, [END])
    assert padded.answer_ids == [9, END, END, END] and padded.top_ids is not None and padded.top_logprobs is not None
    batch = hide(collate([padded], [0], is_packed=False), [HiddenView(padded, torch.ones(4, dtype=torch.bool))], FORM)
    logprobs = torch.randn(4, 12, generator=drawn(0)).log_softmax(dim=-1)
    targets = Targets(batch.next_ids, batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher)
    losses, mask = terms_of(ForwardKL(), logprobs, targets)
    assert mask.all() and torch.allclose(losses[2:], -logprobs[2:, END], atol=1e-4)
    unfinished = Example([7], [9, 10])
    assert with_whole_blocks(unfinished, 4, [END]) is unfinished


def test_families_that_attend_see_both_sides_and_a_state_does_not() -> None:
    assert all(sees_both_sides(Student(small_model(family)).eval(), FORM) for family in ("llama", "gpt2"))
    assert not sees_both_sides(RunningSum(), FORM)  # type: ignore[arg-type]


def test_the_form_is_read_as_it_was_written_and_no_other() -> None:
    assert MaskedForm.in_config({CONFIG_KEY: FORM.entry()}) == FORM
    assert MaskedForm.in_config({}) is None
    for wrong in (True, {"mask_token": "x"}, FORM.entry() | {"block_size": 0}, FORM.entry() | {"mask_token_id": "0"}):
        with pytest.raises(ValueError, match="config.json: masked_decoding is"):
            MaskedForm.in_config({CONFIG_KEY: wrong})
