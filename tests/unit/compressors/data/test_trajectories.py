"""Sentences in tokens, and answers that are far apart."""

from __future__ import annotations

import pytest

from attar.compressors.data.trajectories import farthest_texts, sentence_ends, token_ends


def test_sentences_are_cut_where_they_end() -> None:
    text = "It is 3.14. Really? Yes!\nSo be it"
    ends = sentence_ends(text)
    cut = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert cut == ["It is 3.14. ", "Really? ", "Yes!\n", "So be it"]
    assert sentence_ends("One.") == [4] and sentence_ends("") == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "1. Add 3.\n2. Multiply by 10. Done.\n10. Last",
            ["1. Add 3.\n", "2. Multiply by 10. ", "Done.\n", "10. Last"],
        ),
        ("It costs 3. Then 4.", ["It costs 3. ", "Then 4."]),
        ('He said "No." Then (yes!) he left.', ['He said "No." ', "Then (yes!) ", "he left."]),
        ("他来了。我走了！好吗？是。", ["他来了。", "我走了！", "好吗？", "是。"]),
    ],
)
def test_the_number_of_a_list_ends_no_sentence_and_other_scripts_have_their_own_stops(
    text: str, sentences: list[str]
) -> None:
    ends = sentence_ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences


def test_tokens_belong_to_the_sentence_that_they_begin_in() -> None:
    pieces = ["One", ".", " Two", " words", ".", ""]  # the last is the token that ends the answer
    ends = sentence_ends("".join(pieces))
    assert ends == [5, 15]
    # the space of " Two" is the end of the first sentence, its word begins the second
    assert token_ends(pieces, ends) == [2, 6]
    assert token_ends(["One. Two."], sentence_ends("One. Two.")) == [1], (
        "a sentence without a token of its own is left out"
    )


def test_farthest_texts_take_the_outlier_and_never_two_equal_ones() -> None:
    texts = ["add 1 and 2", "add 1 and 2", "add 1 and 3", "count on your fingers instead", "add 1 and 2"]
    assert farthest_texts(texts, 2) == [0, 3]
    assert farthest_texts(texts, 5) == [0, 3, 2], "three different ones are all there are"
    assert farthest_texts([], 3) == [] and farthest_texts(["a"], 3) == [0]
