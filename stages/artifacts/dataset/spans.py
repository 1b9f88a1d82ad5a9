"""Spans of a text as data sets and models write them. Each has a label, where in the text it is or what it says; all are verbatim."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attar.compressors.data.spans import OUTSIDE, Span, in_characters, joined_locations, kind_of, spans_of
from attar.stages.artifacts.dataset.cells import is_blank, is_unicode, json_of


class SpanError(ValueError):
    """A span that a text does not have. `kind`: what is wrong with it, in a word or two."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


FORM = "{label: KIND, start: 0, end: 4} or {label: KIND, text: WORDS}"


def read_span(given: Any, text: str, taken: Collection[Span]) -> Span:
    """Return a span of a text. One that says no place is the first of its words that no other span has `taken`.

    Raises SpanError for another form, words that are not in the text, or not where they should be, and for two spans that overlap.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("label"), str):
        raise SpanError("no span", f"span {_shown(given)} has no label; accepted: {FORM}")
    label: str = given["label"]
    words, start, end = (given.get(name) for name in ("text", "start", "end"))
    if is_blank(label) or not is_unicode(label) or len(label.splitlines()) > 1:
        raise SpanError("no span", f"span {_shown(given)} has a blank label; accepted: {FORM}")
    if start is None and end is None:
        if not isinstance(words, str) or not words.strip():
            raise SpanError("no span", f"span {_shown(given)} has no text; accepted: {FORM}")
        return _next(words, label, text, taken)
    if not _is_within(start, end, text):
        raise SpanError(
            "not verbatim", f"span {_shown(given)} is not in its text of {len(text)} characters; accepted: {FORM}"
        )
    assert isinstance(start, int) and isinstance(end, int), "numbers within the text"
    if isinstance(words, str) and text[start:end] != words:
        raise SpanError(
            "not verbatim",
            f"span {words[:60]!r} is not verbatim in its text, which has {text[start:end][:60]!r} at {start} to {end}",
        )
    span = Span(start, end, label)
    if over := next((other for other in taken if _overlap(span, other)), None):
        raise SpanError(
            "overlap",
            f"span {text[start:end][:60]!r} overlaps {text[over.start : over.end][:60]!r}; accepted: spans apart from each other",
        )
    return span


def read_spans(given: Any, text: str) -> list[Span]:
    """Return all spans of a text in order, of a list or of one as JSON text. Raises ValueError as `read_span` does, and for what is no list."""
    given = _listed(given)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f"spans are {_shown(given)}; accepted: a list of {FORM}, an empty one where there is none")
    spans: list[Span] = []
    # those that say where they are come first: the others take what is left
    for span in sorted(given, key=lambda span: isinstance(span, Mapping) and span.get("start") is None):
        spans.append(read_span(span, text, spans))
    return sorted(spans)


def read_tags(words: Any, tags: Any) -> tuple[list[str], list[Span]]:
    """Return words, and the spans that their tags tell of the text that has a space between two words. Raises ValueError for other lists."""
    words, tags = _listed(words), _listed(tags)
    for name, some in (("words", words), ("tags", tags)):
        if not isinstance(some, Sequence) or isinstance(some, str) or not some:
            raise ValueError(f"{name} are {_shown(some)}; accepted: a list of text, one entry at least")
        if wrong := [entry for entry in some if not isinstance(entry, str) or is_blank(entry) or not is_unicode(entry)]:
            raise ValueError(f"{name} have {_shown(repr(wrong[0]))}; accepted: text, which is not blank")
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} words have {len(tags)} tags; accepted: a tag a word")
    if wrong := [tag for tag in tags if tag != OUTSIDE and not kind_of(tag)]:
        raise ValueError(f"tag {wrong[0][:60]!r} tells no span; accepted: O, B-KIND, I-KIND")
    return list(words), in_characters(spans_of(tags), joined_locations(words))


def as_cells(spans: Collection[Span]) -> list[dict[str, Any]]:
    """Return spans as a row keeps them."""
    return [{"start": span.start, "end": span.end, "label": span.label} for span in spans]


def _listed(cell: Any) -> Any:
    """Return a cell, of a table of text the list that it holds as JSON."""
    if not isinstance(cell, str) or cell.strip()[:1] != "[":
        return cell
    try:
        return json_of(cell)
    except ValueError:
        return cell  # refused as what it is


def _next(words: str, label: str, text: str, taken: Collection[Span]) -> Span:
    start = text.find(words)
    if start < 0:
        raise SpanError("not verbatim", f"span {words[:60]!r} is not verbatim in its text")
    while start >= 0:
        span = Span(start, start + len(words), label)
        if not any(_overlap(span, other) for other in taken):
            return span
        start = text.find(words, start + 1)
    raise SpanError(
        "overlap",
        f"span {words[:60]!r} overlaps another wherever the text has it; accepted: spans apart from each other",
    )


def _is_within(start: Any, end: Any, text: str) -> bool:
    are_numbers = all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, end))
    return are_numbers and 0 <= start < end <= len(text) and bool(text[start:end].strip())


def _overlap(first: Span, second: Span) -> bool:
    return first.start < second.end and second.start < first.end


def _shown(given: Any) -> str:
    return " ".join(str(given).split())[:60]
