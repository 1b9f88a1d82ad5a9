"""Spans of a text as tags of its words (BIO, or IOB2). `B-X` begins a span of kind X, `I-X` goes on with it, `O` is outside.

https://arxiv.org/abs/cmp-lg/9505040. Tags that begin nothing are read as conlleval and seqeval read them: an `I-X` behind another kind, or
behind `O`, begins a span.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"
# A run of letters, digits and underscores, or a single sign.
WORD = re.compile(r"\w+|[^\w\s]")
# First character of a word in its text, and the one behind its last.
Location = tuple[int, int]


@dataclass(frozen=True, order=True)
class Span:
    """A run of characters, or of words, of one kind: from `start` to before `end`."""

    start: int
    end: int
    label: str


def word_locations(text: str) -> list[Location]:
    """Return where the words of a text are."""
    return [match.span() for match in WORD.finditer(text)]


def joined_locations(words: Sequence[str]) -> list[Location]:
    """Return where given words are in the text that they make with a space between two."""
    locations, start = [], 0
    for word in words:
        locations.append((start, start + len(word)))
        start += len(word) + 1
    return locations


def tags_of(spans: Collection[Span], locations: Sequence[Location], tags: Collection[str]) -> list[str]:
    """Return the tag of each word. It belongs to a span when it shares a character with it, to the first of two.

    Without `B-X` among the model's `tags` a span begins with `I-X`, and the reverse. Every kind must have one of the two.
    """
    made = [OUTSIDE] * len(locations)
    for span in sorted(spans):
        first, rest = (
            next(prefix + span.label for prefix in order if prefix + span.label in tags)
            for order in ((BEGIN, INSIDE), (INSIDE, BEGIN))
        )
        own = [index for index, (start, end) in enumerate(locations) if start < span.end and span.start < end]
        free = [index for index in own if made[index] == OUTSIDE]
        for index in free:
            made[index] = first if index == free[0] else rest
    return made


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of words that tags tell, in order."""
    spans: list[Span] = []
    for index, tag in enumerate(tags):
        label = kind_of(tag)
        goes_on = tag.startswith(INSIDE) and spans and (spans[-1].end, spans[-1].label) == (index, label)
        if goes_on:
            spans[-1] = Span(spans[-1].start, index + 1, label)
        elif label:
            spans.append(Span(index, index + 1, label))
    return spans


def in_characters(spans: Collection[Span], locations: Sequence[Location]) -> list[Span]:
    """Return spans of words as spans of characters."""
    return [Span(locations[span.start][0], locations[span.end - 1][1], span.label) for span in spans]


def kind_of(tag: str) -> str:
    """Return what kind of span a tag is of; empty: of none."""
    return tag[2:] if tag.startswith((BEGIN, INSIDE)) else ""


def kinds_of(tags: Collection[str]) -> list[str]:
    """Return the kinds of spans that tags tell, each once, in order."""
    return list(dict.fromkeys(filter(None, map(kind_of, tags))))


def tags_for(kinds: Sequence[str]) -> list[str]:
    """Return the tags that tell these kinds of spans."""
    return [OUTSIDE, *(prefix + kind for kind in kinds for prefix in (BEGIN, INSIDE))]


def wrong_tags(tags: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with tags. Each is `O`, or says where in a span of which kind a word is; `O` is among them, and none is twice."""
    for tag in tags:
        if tag != OUTSIDE and not kind_of(tag):
            yield f"{tag[:60]!r}; accepted: {OUTSIDE}, and {BEGIN}KIND and {INSIDE}KIND of each kind of span"
    for tag, count in Counter(tags).items():
        if count > 1:
            yield f"{tag[:60]!r} {count} times; accepted: each tag once"
    if OUTSIDE not in tags:
        yield f"no {OUTSIDE!r}; accepted: {OUTSIDE}, and {BEGIN}KIND and {INSIDE}KIND of each kind of span"


def first_tokens(offsets: Sequence[Location], locations: Sequence[Location]) -> list[int]:
    """Return the first token of each word by where tokens begin and end; -1 for a word without one.

    Special tokens are nowhere, (0, 0). Of two words in one token the first has it.
    """
    firsts: list[int] = []
    token, last = 0, -1
    for start, end in locations:
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        is_there = token != last and token < len(offsets) and offsets[token][0] < end
        firsts.append(token if is_there else -1)
        last = token if is_there else last
    return firsts
