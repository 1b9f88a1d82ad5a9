"""What the teacher reads: token ids built of parts, the loss positions aligned behind them."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.teachers.contexts import (
    CONTEXTS,
    ContextParts,
    Demonstrations,
    OwnAnswer,
    ReferenceSolution,
    Sibling,
    Skill,
    Wording,
)

EOS = 1


def encode(text: str) -> list[int]:
    return [10 + ord(letter) for letter in text]


def decode(ids: object) -> str:
    return "".join(chr(token_id - 10) for token_id in ids if token_id != EOS)  # type: ignore[attr-defined]


WORDING = Wording(
    render=lambda question: [2, *encode(question), 3], encode=encode, decode=decode, stop_ids=frozenset({EOS})
)
PARTS = ContextParts(
    question="2+2? {x}",
    prompt_ids=WORDING.render("2+2? {x}"),
    answer_ids=[*encode("5"), EOS],
    reference="It is {4}.",
    is_correct=False,
    sibling_ids=[*encode("4"), EOS],
    demonstrations=[("2+2? {x}", "4"), ("1+1?", "2"), ("3+3?", "6")],
    skill="Count.",
)


def test_each_context_tells_its_part_and_no_other() -> None:
    contexts = {name: method()(PARTS, WORDING) for name, method in CONTEXTS.items()}
    assert contexts["none"] is None
    texts = {name: decode(ids[1:-1]) for name, ids in contexts.items() if ids is not None and name != "own_answer"}
    assert "It is {4}." in texts["reference"] and texts["reference"].startswith("2+2? {x}")
    assert "correct solution:\n4\n" in texts["sibling"] and "{4}" not in texts["sibling"]
    assert "Question: 1+1?\nAnswer: 2" in texts["demonstrations"] and "Answer: 4" not in texts["demonstrations"]
    assert texts["skill"].endswith("Count.") and "Count" not in texts["reference"]


def test_the_phrase_turns_with_the_verdict_and_the_first_copy_does_not_end() -> None:
    wrong = OwnAnswer()(PARTS, WORDING)
    right = OwnAnswer()(ContextParts(question="", prompt_ids=[2], answer_ids=[9, EOS, EOS], is_correct=True), WORDING)
    assert wrong == [
        *PARTS.prompt_ids,
        *encode("5"),
        *encode("\n\nWait, this response is wrong. Let me correct it.\n\n"),
    ]
    assert right == [2, 9, *encode("\n\nLet me rephrase the above solution.\n\n")]
    assert OwnAnswer()(ContextParts(question="", prompt_ids=[2], answer_ids=[9]), WORDING) is None, "not judged"


def test_with_nothing_to_tell_there_is_no_context() -> None:
    bare = ContextParts(question="2+2?", prompt_ids=[2], answer_ids=[9])
    assert [context()(bare, WORDING) for context in (ReferenceSolution, Sibling, Demonstrations, Skill)] == [None] * 4
    with pytest.raises(ValueError, match="template has no {hint}"):
        Skill(template="{question}")


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_bigram_model_makes_no_difference_whatever_stands_before(is_packed: bool) -> None:
    """A model that sees the previous token alone says the same behind any context, once both end alike; an off-by-one would show."""
    table = torch.randn(300, 300, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    answers = [[11, 12, 13], [14], [15, 16]]
    # the phrase's last token is the prompt's last, so that the first answer token is aligned too
    examples = [Example([5, 6, 7], answer, hinted_ids=[5, 6, 7, *answer, 99, 98, 7]) for answer in answers]
    batch = collate(examples, [2, 0, 1], is_packed=is_packed)
    assert batch.hinted is not None
    plain, hinted = (table[side.input_ids[side.rows, side.columns]] for side in (batch, batch.hinted))
    assert torch.equal(batch.next_ids, batch.hinted.next_ids) and torch.equal(plain, hinted)
    shifted = table[batch.hinted.input_ids[batch.hinted.rows, batch.hinted.columns + 1]]
    assert not torch.equal(plain, shifted)
    own = torch.gather(plain, -1, batch.next_ids[:, None])
    assert own.shape == (6, 1) and batch.sequences.tolist() == [0, 0, 1, 1, 1, 2]
