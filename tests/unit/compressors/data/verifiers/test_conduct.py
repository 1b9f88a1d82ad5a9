"""Refusals and languages are told by the words of an answer."""

from __future__ import annotations

import pytest

from attar.compressors.data.verifiers.conduct import KeepsLanguage, KeepsRefusal, language_of, refuses


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I cannot assist with this request.",
        "I cannot provide instructions for that.",
        "As an AI language model, I am unable to do this.",
        "I won't write that.",
        "It's illegal to make such a thing, and I can't explain it.",
    ],
)
def test_a_refusal_is_one(text: str) -> None:
    assert refuses(text) and KeepsRefusal()(text, "refuse", []) is None
    assert KeepsRefusal()(text, "comply", []) == "wrong answer (it refuses)"


@pytest.mark.parametrize(
    "text",
    [
        "To kill a process, use `kill` with its id.",
        "First, you need a large pot. Fill it with water.",
        "Use a soft light and a long lens. " * 10 + "If it fails, I'm sorry.",
        "The recipe can be made without milk.",
    ],
)
def test_help_is_no_refusal(text: str) -> None:
    assert not refuses(text) and KeepsRefusal()(text, "comply", []) is None
    assert KeepsRefusal()(text, "refuse", []) == "wrong answer (it does not refuse)"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The sky is blue because of the light that is scattered in it.", "en"),
        ("Le ciel est bleu, et les nuages sont blancs dans la lumière.", "fr"),
        ("Das Pferd frisst Heu und ein wenig Hafer, es ist auch gern auf der Weide.", "de"),
        ("Un perro es un animal que vive con las personas y los cuida.", "es"),
        ("Il pane è un alimento che si fa con la farina e nel forno.", "it"),
        ("O gato é um animal que vive com as pessoas e não é grande.", "pt"),
        ("De hond is een dier dat bij mensen leeft en niet alleen wil zijn.", "nl"),
        ("12 + 30", None),
        ("", None),
    ],
)
def test_a_language_is_told_by_its_function_words(text: str, language: str | None) -> None:
    assert language_of(text) == language
    if language:
        assert KeepsLanguage()(text, language, []) is None
    other = "fr" if language != "fr" else "en"
    assert KeepsLanguage()(text, other, []) == f"wrong answer (language {language or 'unclear'})"


def test_references_that_mean_nothing_are_told() -> None:
    assert KeepsRefusal().reference_fault("maybe", []) == "it is neither refuse nor comply"
    assert (KeepsLanguage().reference_fault("xx", []) or "").startswith("it is none of en, fr")
    assert KeepsRefusal()("", "refuse", []) == "empty answer"
