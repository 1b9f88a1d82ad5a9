"""Spans, tags of words, and the first tokens of words."""

from __future__ import annotations

import pytest

from attar.compressors.data.spans import (
    Span,
    first_tokens,
    in_characters,
    joined_locations,
    kinds_of,
    spans_of,
    tags_for,
    tags_of,
    word_locations,
    wrong_tags,
)

TEXT = "Severe ataxia after lithium (600mg)."
TAGS = tags_for(["Drug", "Effect"])


def test_words_are_runs_of_letters_and_digits_and_single_signs() -> None:
    words = [TEXT[start:end] for start, end in word_locations(TEXT)]
    assert words == ["Severe", "ataxia", "after", "lithium", "(", "600mg", ")", "."]
    assert joined_locations(["a", "bcd", "e"]) == [(0, 1), (2, 5), (6, 7)]


def test_spans_come_back_of_the_tags_that_they_make() -> None:
    locations = word_locations(TEXT)
    spans = [Span(0, 13, "Effect"), Span(20, 27, "Drug")]
    tags = tags_of(spans, locations, TAGS)
    assert tags == ["B-Effect", "I-Effect", "O", "B-Drug", "O", "O", "O", "O"]
    assert in_characters(spans_of(tags), locations) == spans
    # two of a kind side by side stay two
    side_by_side = [Span(0, 6, "Drug"), Span(7, 13, "Drug")]
    assert in_characters(spans_of(tags_of(side_by_side, locations, TAGS)), locations) == side_by_side


def test_a_span_within_a_word_is_the_word_and_of_two_in_one_the_first_has_it() -> None:
    locations = word_locations(TEXT)
    dose = TEXT.index("mg")
    assert tags_of([Span(dose, dose + 2, "Drug")], locations, TAGS)[5] == "B-Drug"
    both = tags_of([Span(dose - 3, dose, "Effect"), Span(dose, dose + 5, "Drug")], locations, TAGS)
    assert both[5:] == ["B-Effect", "B-Drug", "I-Drug"]


def test_a_model_without_begins_or_insides_has_the_other() -> None:
    locations = word_locations("a b c")
    assert tags_of([Span(0, 3, "X")], locations, ["O", "I-X"]) == ["I-X", "I-X", "O"]
    assert tags_of([Span(0, 3, "X")], locations, ["O", "B-X"]) == ["B-X", "B-X", "O"]


def test_an_inside_that_goes_on_with_nothing_begins() -> None:
    tags = ["I-X", "I-Y", "O", "I-Y", "I-Y", "B-Y"]
    assert spans_of(tags) == [Span(0, 1, "X"), Span(1, 2, "Y"), Span(3, 5, "Y"), Span(5, 6, "Y")]


def test_tags_of_other_schemes_are_told() -> None:
    assert not [*wrong_tags(["O", "B-a-b", "I-a-b"])] and kinds_of(["O", "B-a-b", "I-a-b"]) == ["a-b"]
    for tags, named in (
        (["O", "S-X"], "'S-X'"),
        (["O", "NOUN"], "'NOUN'"),
        (["B-X", "I-X"], "no 'O'"),
        (["O", "B-"], "'B-'"),
        (["O", "O", "B-X", "I-X"], "'O' 2 times"),
        (["O", "B-X", "I-X", "B-X"], "'B-X' 2 times"),
    ):
        assert named in next(wrong_tags(tags))


@pytest.mark.parametrize(
    ("offsets", "firsts"),
    [
        # special tokens around, a word in two pieces
        ([(0, 0), (0, 2), (2, 4), (5, 7), (8, 9), (0, 0)], [1, 3, 4]),
        # the space before a word belongs to its token
        ([(0, 4), (4, 7), (7, 9)], [0, 1, 2]),
        # cut after the second word
        ([(0, 0), (0, 4), (5, 7), (0, 0)], [1, 2, -1]),
        # one token for two words: the first has it
        ([(0, 4), (5, 9)], [0, 1, -1]),
        # a token of the space alone
        ([(0, 4), (4, 5), (5, 7), (7, 8), (8, 9)], [0, 2, 4]),
    ],
)
def test_the_first_token_of_a_word_is_the_one_that_its_first_character_is_in(
    offsets: list[tuple[int, int]], firsts: list[int]
) -> None:
    assert first_tokens(offsets, word_locations("lava is x")) == firsts
