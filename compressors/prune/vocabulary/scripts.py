"""Scripts of the world's writing: what a text is written in, and whether a token belongs to some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import regex  # knows scripts, which `re` does not

# fmt: off
SCRIPTS = (
    "Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek",
    "Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana",
    "Khmer", "Lao", "Latin", "Malayalam", "Myanmar", "Sinhala", "Tamil", "Telugu",
    "Thai", "Tibetan",
)
# fmt: on
_LETTERS = {name: regex.compile(rf"\p{{Script={name}}}") for name in SCRIPTS}
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]+")


def letters_by_script(texts: Iterable[str]) -> Counter[str]:
    """Return how many letters of each script the texts have."""
    counts: Counter[str] = Counter()
    for text in texts:
        for name, pattern in _LETTERS.items():
            counts[name] += len(pattern.findall(text))
    return +counts


def words_of(text: str) -> list[str]:
    """Return the words of two letters or more."""
    return _WORD.findall(text)


def in_scripts(scripts: Sequence[str]) -> regex.Pattern[str]:
    """Return what matches a text whose letters and marks are all of these scripts. Digits, signs and shared marks are of any."""
    own = "".join(rf"\p{{Script={name}}}" for name in scripts)
    return regex.compile(rf"(?:[^\p{{L}}\p{{M}}]|[{own}\p{{Script=Common}}\p{{Script=Inherited}}])*")
