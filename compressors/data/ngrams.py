"""Words of a text and runs of them, as duplicates, overlaps and repetition are counted in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# A number with its decimals is one word; operators are words, since 3 + 5 is not 3 - 5; scripts without spaces go by the character.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)+|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[-+*/=<>^%]")


def words(text: str) -> list[str]:
    """Return the words of a text, case and punctuation aside."""
    return _WORD.findall(text.casefold())


def ngrams(sequence: Sequence[str], num_words: int) -> Iterator[str]:
    """Yield every run of `num_words` words, joined by spaces; nothing when the sequence is shorter."""
    for start in range(len(sequence) - num_words + 1):
        yield " ".join(sequence[start : start + num_words])


def distinct_fraction(text: str, num_words: int = 3) -> float:
    """Return distinct n-grams / n-grams, in (0, 1]: 1 without repetition, near 0 in a loop. https://arxiv.org/abs/1510.03055"""
    runs = list(ngrams(words(text), num_words))
    return len(set(runs)) / len(runs) if runs else 1.0
