"""Choose among many answers. Those that are the teacher's own sentence by sentence, or those that differ most from each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from attar.compressors.data.diversity import farthest_first

# A sentence ends behind . ! ? and their like in other scripts, what closes a bracket or quotation included, or at the end of a line.
# What follows . ! ? without a space, as in 3.14, goes on, and so does the number of a list, as in "3. Multiply".
SENTENCE_END = re.compile(
    r"(?:(?<!^\d[.)])(?<!^\d\d[.)])(?<=[.!?؟।])|(?<=[.!?][)\"'”’»]))\s+|(?<=[。！？｡])[」』”）]?\s*|\n+", re.MULTILINE
)


def sentence_ends(text: str) -> list[int]:
    """Return one past the last character of each sentence, white space behind it included; the last is the text's length."""
    ends = [match.end() for match in SENTENCE_END.finditer(text) if match.end() < len(text)]
    return [*ends, len(text)] if text else []


def token_ends(pieces: Sequence[str], ends: Sequence[int]) -> list[int]:
    """Return one past the last token of each sentence. A token belongs to the sentence that its first character beside white space is in.

    `pieces`: the text of each token; together they are the text. A sentence without a token of its own is left out.
    """
    starts, length = [], 0
    for piece in pieces:
        # most tokenizers put the space before a word into the word's token
        starts.append(length + (len(piece) - len(piece.lstrip()) if piece.strip() else 0))
        length += len(piece)
    counts = [sum(start < end for start in starts) for end in ends]
    if counts:
        counts[-1] = len(pieces)
    return [count for count, before in zip(counts, [0, *counts], strict=False) if count > before]


def farthest_texts(texts: Sequence[str], num_kept: int) -> list[int]:
    """Return the indices of at most `num_kept` texts, in the order chosen. The shortest, then always the one farthest from all chosen.

    Distance is Levenshtein's divided by the longer length, in [0, 1]; equal texts are never both kept; ties go to the lower index.
    https://arxiv.org/abs/2508.09883 names the distance, the greedy order is ours.
    """
    if not texts:
        return []

    def distances(index: int) -> Float[Tensor, "N"]:
        return torch.tensor(
            [Levenshtein.normalized_distance(text, texts[index]) for text in texts], dtype=torch.float64
        )

    shortest = min(range(len(texts)), key=lambda index: (len(texts[index]), index))
    return farthest_first(distances, len(texts), num_kept, first=shortest, takes_copies=False)
