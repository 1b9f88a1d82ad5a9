"""Verifiers of words and choices in any script: equal texts pass however they are encoded, different ones never do."""

from __future__ import annotations

import time
import unicodedata

import pytest

from attar.compressors.data.verifiers.catalogue import ContainsReference, SameChoice
from attar.compressors.data.verifiers.named_choices import named_choices
from attar.compressors.data.verifiers.normal_forms import word_form

SAME = [
    ("Это Москва.", "москва"), ("首都是北京。", "北京"), ("수도는 서울입니다", "서울"), ("กรุงเทพมหานคร", "กรุงเทพ"), ("दिल्ली है", "दिल्ली"),
    ("the cafe", "Café"), ("Café", "cafe\u0301"), ("ёлка", "елка"), ("Łódź", "lodz"), ("straße", "STRASSE"), ("İstanbul", "istanbul"),
    ("ΣΊΣΥΦΟΣ", "σίσυφος"), ("ﬁne", "fine"), ("Ｐａｒｉｓ", "Paris"), ("القَاهِرَة", "القاهرة"), ("٥ apples", "5 apples"), ("don’t", "don't"),
    ("I like C++.", "C++"), ("1,000 people", "1000"), ("a + b", "a+b"), ("The sign is +.", "+"), ("so 👍!", "👍"), ("result: []", "[]"),
    ("**Paris**", "Paris"), ("well-known", "well known"),
]  # fmt: skip
DIFFERENT = [
    ("Это Лондон", "Москва"), ("北京", "東京"), ("!!!", "?"), ("is it?", "?"), ("👍", "👎"), ("мой", "мои"), ("かき", "がき"), ("कि", "की"),
    ("दल", "दिल"), ("I like C", "C++"), ("it is -5", "5"), ("it is 5", "−5"), ("3.14", "3"), ("x + y", "x - y"), ("The capital is Parisian.", "Paris"),
    ("", "Paris"), ("+", "++"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reference"), SAME)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_what_is_there_is_seen(text: str, reference: str, form: str) -> None:
    assert ContainsReference()(unicodedata.normalize(form, text), reference, []) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "reference"), DIFFERENT)
def test_what_is_not_there_never_passes(text: str, reference: str) -> None:
    assert ContainsReference()(text, reference, []) == "wrong answer (the reference does not occur in it)"


@pytest.mark.parametrize("reference", ["", " ", "\n"])
def test_an_empty_reference_is_no_reference(reference: str) -> None:
    assert ContainsReference()("anything", reference, []) == "unusable reference (it is empty)"


@pytest.mark.parametrize("text", ["Москва", "北京", "सूरज", "서울", "فاس", "Ærø", "ไทย"])
def test_a_word_has_a_form_in_every_script(text: str) -> None:
    assert word_form(text) and word_form(text) == word_form(f"«{text}»!")


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("+", ["+", "-"], {0}), ("The answer is '-'.", ["+", "-"], {1}), ("+ and -", ["+", "-"], {0, 1}), ("?", ["?", "!"], {0}),
        ("北京", ["北京", "東京"], {0}), ("Москва", ["москва", "Лондон"], {0}), ("نعم", ["نعم", "لا"], {0}),
        ("C", ["C", "C++", "C#"], {0}), ("C++", ["C", "C++", "C#"], {1}), ("C# it is", ["C", "C++", "C#"], {2}),
        ("A-", ["A", "A-", "A+"], {1}), ("it is -5", ["5", "-5"], {1}), ("mole", ["mole", "Mole"], {0}),
        ("答案是B。", ["x", "y"], {1}), ("（Ｂ）", ["x", "y"], {1}), ("**B**", ["x", "y"], {1}), ("U.S.A.", ["x", "y"], set()),
        ("A cat", ["dog", "bird"], set()), ("A is right", ["dog", "bird"], {0}), ("I do not know", ["x"] * 10, set()),
        ("a car or a cart", ["car", "cart"], {0, 1}), ("New York City", ["New York", "New York City"], {1}),
        ("New York, not New York City", ["New York", "New York City"], {0, 1}), ("", ["a", "b"], set()),
    ],
)  # fmt: skip
def test_choices_are_told_apart(text: str, choices: list[str], named: set[int]) -> None:
    assert named_choices(text, choices) == named


@pytest.mark.parametrize(
    "choices", [["+", "-"], ["C", "C++"], ["北京", "東京"], ["A", "A-"], ["1/2", "½"], ["да", "нет"], ["👍", "👎"]]
)
def test_every_choice_names_itself_and_no_other(choices: list[str]) -> None:
    check = SameChoice()
    for reference in choices:
        assert check.reference_fault(reference, choices) is None
        assert [check(text, reference, choices) is None for text in choices] == [text == reference for text in choices]


def test_of_equal_choices_the_first_stands_for_all() -> None:
    """CommonsenseQA has such rows: 146 of its 10,962 repeat a choice."""
    choices = ["indestructible", "durable", "indestructible"]
    assert (
        named_choices("indestructible", choices)
        == named_choices("It is indestructible.", choices)
        == named_choices("C", choices)
        == {0}
    )
    assert (
        SameChoice()("(C)", "indestructible", choices) is None
        and SameChoice()("durable", "indestructible", choices) is not None
    )


@pytest.mark.parametrize("piece", ["a ", "+", "北", "-5", "1,234", "e\u0301", "A ", "\ufdfa", "\u0301"])
def test_a_long_text_is_compared_in_bounded_time(piece: str) -> None:
    """200,000 characters; the slowest, a character that stands for eighteen, takes 1 s of processor."""
    start = time.process_time()
    ContainsReference()(piece * (200_000 // len(piece)), "a a a b", [])
    named_choices(piece * (200_000 // len(piece)), ["a", "a a", "+"])
    assert time.process_time() - start < 10.0
