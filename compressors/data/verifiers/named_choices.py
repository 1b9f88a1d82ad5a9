"""Which of its choices a text names: by their words, by their signs, else by letter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from attar.compressors.data.verifiers.normal_forms import occurs_as_sign, sign_form, word_form, word_spans

# A capital by itself, in any script: "B", "(B)", "**B**.", "答案是B"; not that of B-52, U.S.A. or a word
_LETTER = re.compile(r"(?<![A-Za-z0-9_'’.-])([A-Z])(?![A-Za-z0-9_'’-])(?!\.[A-Za-z])")
# "A cat" begins with an article and "I think" with a pronoun; "A is right" names a choice
_AFTER_LETTER = re.compile(r"\s+(?!(?:is|are|and|or|because|since|as|with|seems|for)\b)[a-z]")
_LONGEST = 100_000


def named_choices(text: str, choices: Sequence[str]) -> set[int]:
    """Return the indices of the choices that a text names: by their text as whole words, else by letter.

    Of choices that are the same text, which data sets have, the first stands for all.
    """
    text = text[-_LONGEST:]
    written = [sign_form(choice) for choice in choices]
    firsts = [written.index(form) for form in written]
    signs = sign_form(text)
    if signs in written:
        return {written.index(signs)} if signs else set()
    forms = [word_form(choice) if index in firsts else () for index, choice in enumerate(choices)]
    # what has no words, or the same as another, is told apart by its signs: + and -, A and A-
    by_words = {index: form for index, form in enumerate(forms) if form and forms.count(form) == 1}
    others = [index for index in set(firsts) if index not in by_words]
    named = _by_words(word_form(text), by_words) | _by_signs(signs, {index: written[index] for index in others})
    return named or {firsts[index] for index in _by_letter(text, len(choices))}


def _by_signs(text: str, signs: dict[int, str]) -> set[int]:
    """Return the choices that stand in a text sign for sign, without those that are part of another one there."""
    there = {index: sign for index, sign in signs.items() if occurs_as_sign(sign, text)}
    return {
        index for index, sign in there.items() if not any(sign in other and sign != other for other in there.values())
    }


def _by_words(words: tuple[str, ...], forms: dict[int, tuple[str, ...]]) -> set[int]:
    """Return the choices whose words occur outside those of a longer one: "New York City" also contains the choice "New York"."""
    spans = {index: list(word_spans(form, words)) for index, form in forms.items()}
    longer = sorted({span for some in spans.values() for span in some}, key=lambda span: (span[0], -span[1]))
    outer: set[tuple[int, int]] = set()
    reach = -1
    for span in longer:  # by start, the longest first: what ends no later than one before it lies inside that
        if span[1] > reach:
            outer.add(span)
            reach = span[1]
    return {index for index, some in spans.items() if any(span in outer for span in some)}


def _by_letter(text: str, num_choices: int) -> set[int]:
    text = unicodedata.normalize("NFKC", text)
    named = set()
    for match in _LETTER.finditer(text):
        if match[1] in "AI" and _AFTER_LETTER.match(text, match.end()):
            continue
        named.add(ord(match[1]) - ord("A"))
    return {index for index in named if index < num_choices}
