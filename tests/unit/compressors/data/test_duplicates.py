"""Duplicates: every pair that Jaccard calls alike is found, none that it does not, and the first always stays."""

from __future__ import annotations

import random

import pytest

from attar.compressors.data.duplicates import find_duplicates, jaccard, shingles
from attar.compressors.data.ngrams import words


def texts_with_copies(num_texts: int = 150) -> list[str]:
    """Random sentences, a third of them copies of an earlier one with a few words changed."""
    draw = random.Random(0)
    vocabulary = [f"w{index}" for index in range(300)]
    texts: list[str] = []
    for index in range(num_texts):
        if index % 3 == 2:
            copy = draw.choice(texts).split()
            for _ in range(draw.randrange(5)):
                copy[draw.randrange(len(copy))] = draw.choice(vocabulary)
            texts.append(" ".join(copy))
        else:
            texts.append(" ".join(draw.choices(vocabulary, k=30)))
    return texts


def all_pairs(texts: list[str], threshold: float) -> set[int]:
    """What greedy deduplication by comparing every pair drops."""
    pairs: list[int] = []
    for index, text in enumerate(texts):
        if all(jaccard(shingles(text, 3), shingles(texts[other], 3)) < threshold for other in pairs):
            pairs.append(index)
    return set(range(len(texts))) - set(pairs)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_what_is_dropped_is_what_comparing_every_pair_drops(threshold: float) -> None:
    texts = texts_with_copies()
    expected = all_pairs(texts, threshold)
    assert 10 < len(expected) < 60
    assert find_duplicates(texts, threshold=threshold).keys() == expected
    hashed = find_duplicates(texts, threshold=threshold, max_compared=0)
    assert hashed.keys() <= expected, "exact similarity decides: no false alarm"
    assert len(hashed.keys() & expected) >= 0.95 * len(expected), "and hashing misses next to none"


def test_the_kept_text_is_an_earlier_one_that_is_no_duplicate_itself() -> None:
    texts = texts_with_copies()
    texts += texts[:20]
    duplicates = find_duplicates(texts, threshold=0.6)
    for index, duplicate in duplicates.items():
        assert duplicate.of < index and duplicate.of not in duplicates
        own, other = shingles(texts[index], 3), shingles(texts[duplicate.of], 3)
        assert duplicate.is_exact == (texts[index] == texts[duplicate.of])
        assert duplicate.similarity >= 0.6
        if not duplicate.is_exact and texts.index(texts[index]) == index:
            assert duplicate.similarity == pytest.approx(jaccard(own, other))
    assert find_duplicates(texts, threshold=0.6) == duplicates


def test_at_threshold_one_only_equal_texts_are_duplicates() -> None:
    texts = ["Red  fox\n", "red fox", "red fox!", "a red fox"]
    assert {index: duplicate.of for index, duplicate in find_duplicates(texts, threshold=1.0).items()} == {1: 0}


def test_numbers_and_operators_tell_short_questions_apart() -> None:
    texts = ["What is 3 + 5?", "What is 3 - 5?", "What is 3.5?", "What is 35?", "?", "!"]
    assert not find_duplicates(texts, threshold=0.9)


def test_words_of_scripts_without_spaces_go_by_the_character() -> None:
    assert words("Es ist 3.5 < 4, ja!") == ["es", "ist", "3.5", "<", "4", "ja"]
    assert words("東京は") == ["東", "京", "は"]
