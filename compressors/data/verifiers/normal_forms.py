"""Texts in a form in which they can be compared, in any script. Their words, or their signs where they have no word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import regex  # classes of letters, digits and marks, which `re` lacks

# Scripts that put no space between a word and what follows it go by the character: kana, ideographs, Hangul, Thai, Lao, Khmer, Burmese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\U00020000-\U0003ffff"
)
# Letters that no accent can be taken from, as people write them on a keyboard without them
_BARE = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ـ": ""}
)
# Marks that are left out in writing, whatever letter they stand on: Hebrew points, Arabic vowels
_OPTIONAL_MARKS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u0652\u0670]")
# With these it is another letter: й is no и, while ё is written е and a stress may be left out
_CYRILLIC_LETTER_MARKS = "\u0306\u030a"
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–−", "-"))
# A point between digits is part of a number; + and # behind a letter are part of a name; a minus before a digit is a sign.
_WORD = regex.compile(
    rf"""
    (?:(?<![\p{{L}}\p{{N}}])-(?=\p{{Nd}}))?
    (?: \p{{Nd}}{{1,3}}(?:,\p{{Nd}}{{3}})+(?![\p{{Nd}},]) | \p{{Nd}}+(?:\.\p{{Nd}}+)+
      | (?:[\p{{L}}\p{{N}}--[{_UNSPACED}]]\p{{M}}*)+(?:[+\#]+(?![\p{{L}}\p{{N}}]))? )
    | [{_UNSPACED}]\p{{M}}* | [+=±×÷≤≥≠<>]
    """,
    regex.VERSION1 | regex.VERBOSE,
)
_LONGEST = 100_000


def word_form(text: str) -> tuple[str, ...]:
    """Return the words of a text: case, accents, punctuation and the way it is encoded aside. Empty for one of signs alone."""
    return tuple(word.replace(",", "") for word in _WORD.findall(_folded(text)))


def sign_form(text: str) -> str:
    """Return a text as it stands, encoding, outer white space and the length of inner white space aside."""
    return " ".join(unicodedata.normalize("NFKC", text[:_LONGEST])[:_LONGEST].translate(_DASHES).split())


def word_spans(part: Sequence[str], words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where a run of words occurs in others, as (first, one past the last)."""
    if not part:
        return
    inside, wanted = f" {' '.join(words)} ", f" {' '.join(part)} "
    starts: dict[int, int] = {}
    offset = 0
    for index, word in enumerate(words):
        starts[offset] = index
        offset += len(word) + 1
    start = inside.find(wanted)
    while start >= 0:
        yield starts[start], starts[start] + len(part)
        start = inside.find(wanted, start + 1)


def occurs_as_sign(part: str, text: str) -> bool:
    """Say whether a sign form stands in another by itself. No letter and no sign like its own touches it, so ? is not in `is it?`."""
    if not part:
        return False
    start = text.find(part)
    while start >= 0:
        before, after = text[start - 1 : start], text[start + len(part) : start + len(part) + 1]
        if not _touches(part[0], before) and not _touches(part[-1], after):
            return True
        start = text.find(part, start + 1)
    return False


def _touches(edge: str, neighbour: str) -> bool:
    if not neighbour or neighbour.isspace():
        return False
    if neighbour.isalnum():
        return True
    # emphasis, brackets, quotes and the end of a sentence are no part of what they enclose
    return neighbour == edge or (not edge.isalnum() and neighbour not in "*_`\"'()[]{}.,:;!?“”‘’«»。，、「」（）")


def _folded(text: str) -> str:
    """Return a text in one case and one encoding; accents of Latin and Greek letters go, marks that make another letter stay."""
    if text.isascii():
        return text[:_LONGEST].lower()
    spread = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text[:_LONGEST])[:_LONGEST].casefold())
    messages: list[str] = []
    script = ""
    for character in spread.translate(_DASHES).translate(_BARE):
        category = unicodedata.category(character)
        if category == "Nd":
            character = str(unicodedata.digit(character))  # noqa: PLW2901 - a digit is a digit in every script
        if category == "Cf" or _OPTIONAL_MARKS.match(character):
            continue
        if not category.startswith("M"):
            script = _script(character)
        elif script == "plain" or (script == "cyrillic" and character not in _CYRILLIC_LETTER_MARKS):
            continue
        messages.append(character)
    return unicodedata.normalize("NFC", "".join(messages))


def _script(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith(("LATIN", "GREEK")) or not character.isalpha():
        return "plain"
    return "cyrillic" if name.startswith("CYRILLIC") else "other"
