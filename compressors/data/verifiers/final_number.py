"""The number that an answer comes to: the one it says is its answer, else its last."""

from __future__ import annotations

import re

from attar.compressors.data.verifiers.numerals import Numeral, numerals, plain

_WORD = r"answer|result|antwort|réponse|respuesta|risposta|resposta|ответ|відповідь|答案|答え|答|정답|답|الجواب|الإجابة|उत्तर|תשובה|cevap"
_BEING = r"is|are|ist|est|es|è|é|是|为|為|は|은|는|هو|هي|है"
# "answer" alone says nothing: "the answer to question 2 is 7"
_MARK = re.compile(rf"(?:{_WORD})[\s*_`]{{0,4}}(?:(?:{_BEING})(?![a-z])[\s*_`]{{0,4}}:?|[:=：])", re.IGNORECASE)
# GSM8K's line of its own; a heading of Markdown has words
_HASHES = re.compile(r"####(?=[^\w\n#]{0,20}\d)(?!#)(?=(?:[^a-zA-Z\n#]|\\[a-z]+|[eE][+-]?\d)*(?:\n|$))")
_BOX = re.compile(r"\\f?boxed\s*\{")
_SENTENCE = re.compile(r"\n|[!?。！？](?=\s|$)|\.(?=\s|$)")
# what may stand between "the answer is" and its number
_BETWEEN = re.compile(
    r"(?:[\s*_$\\({\[:=~≈€£¥₹`\"'+-]|about|approximately|approx\.|roughly|exactly|therefore|thus|simply|text|mathbf|\b[a-z]\s?=)*",
    re.IGNORECASE,
)


def final_number(text: str) -> Numeral | None:
    r"""Return the number of the last \boxed{}, #### or "the answer is", whichever comes last, else the last number. None without any.

    Numbers in words and units, as in H2O and cm^2, count where there are no others.
    """
    text = plain(text)
    marks = [(match.start(), match) for pattern in (_MARK, _HASHES, _BOX) for match in pattern.finditer(text)]
    if marks:
        mark = max(marks, key=lambda pair: pair[0])[1]
        if mark.re is _BOX:
            return _last(_boxed(text, mark.end()))
        stated = _stated(text[mark.end() :].lstrip())
        if stated is not None:
            return stated
    return _last(text)


def _boxed(text: str, start: int) -> str:
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return text[start:]


def _stated(text: str) -> Numeral | None:
    """Return the number of the sentence behind "the answer is": the first where it follows at once, of an equation what it comes to."""
    end = _SENTENCE.search(text)
    sentence = text[: end.start()] if end else text
    numbers = [number for number in numerals(sentence) if not number.is_glued]
    if not numbers:
        return None
    first = numbers[0]
    if re.match(r"\s*(?:[-+*/×x÷=≈]\s*[\d(]|=|≈)", sentence[first.end :]):
        behind = max(sentence.rfind("="), sentence.rfind("≈"))
        return (
            next((number for number in numbers if number.start > behind), numbers[-1]) if behind >= 0 else numbers[-1]
        )
    return first if _BETWEEN.fullmatch(sentence[: first.start]) else numbers[-1]


def _last(text: str) -> Numeral | None:
    last = glued = None
    for number in numerals(text):
        if number.is_glued:
            glued = number
        else:
            last = number
    return last or glued
