"""What the original is asked: every style shows question and reference, and a chat model gets its own template."""

from __future__ import annotations

import pytest

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.styles import STYLES, rewrite_question, style_of
from attar.compressors.data.verifiers.catalogue import BannedPhrases
from attar.stages.ingest.tiny_model import byte_tokenizer


@pytest.mark.parametrize("style", STYLES)
def test_every_style_shows_the_question_once_and_then_the_reference(style: str) -> None:
    prompt = rewrite_question("Why is it so?", "Because of 42.", ["Because of 42.", "By chance."], STYLES[style])
    assert prompt.count("Why is it so?") == 1
    assert prompt.index("Why is it so?") < prompt.index("### Reference Answer:\nBecause of 42.")
    assert "{" not in prompt
    assert ("B. By chance." in prompt) == (style == "multiple_choice")
    # the reference has one name in all of them, and a rewrite that speaks of it is caught
    assert BannedPhrases()("As the reference answer says, 42.", "", []) is not None


def test_a_question_about_placeholders_stays_as_it_is() -> None:
    assert (
        rewrite_question("What is {answer}?", "{question}", [], "{question} / {answer}")
        == "What is {answer}? / {question}"
    )


@pytest.mark.parametrize("template", ["{question}", "{answer}", "nothing"])
def test_a_template_without_its_places_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"must contain \{question\} and \{answer\}"):
        rewrite_question("a", "b", [], template)


def test_the_style_follows_the_row() -> None:
    assert style_of(["a", "b"], "choice") == "multiple_choice"
    assert style_of([], "number") == "math"
    assert style_of([], "contains") == style_of([], "none") == "general"
    assert {style_of([], name) for name in ("number", "none")} | {style_of(["a"], "choice")} <= STYLES.keys()


def test_a_chat_template_is_used_where_there_is_one() -> None:
    tokenizer = byte_tokenizer()
    text = tokenizer.decode(chat_prompt(tokenizer, "Hello?"))
    assert text == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
    tokenizer.chat_template = None
    assert tokenizer.decode(chat_prompt(tokenizer, "Hello?")) == "Question: Hello?\nAnswer: "
