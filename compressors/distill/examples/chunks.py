"""Chunks of a text that two tokenizers agree on. Each has its likelihood under a teacher with the other tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunks:
    """Chunks of one sequence's learned tokens. One past the last token of each, and the teacher's log-probability of it in nats."""

    ends: tuple[int, ...]
    teacher_nats: tuple[float, ...]

    def within(self, num_tokens: int) -> Chunks:
        """Return those that end within the first tokens."""
        count = sum(end <= num_tokens for end in self.ends)
        return Chunks(self.ends[:count], self.teacher_nats[:count])


def common_ends(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Return (one past the last token of `first`, the same of `second`) of every shortest stretch that both cover exactly.

    `first` and `second`: one past the last character of each token, in one text. Of tokens that end at the same character, as the bytes
    of one letter do, the last counts. Together the chunks cover every character once, where both tokenizers cover the text.
    """
    ends = [
        {end: index + 1 for index, end in enumerate(ends_of)} for ends_of in (first, second)
    ]  # later ones overwrite
    return [(ends[0][end], ends[1][end]) for end in sorted(ends[0].keys() & ends[1].keys()) if end > 0]


def chunk_sums(token_nats: Sequence[float], ends: Sequence[int]) -> list[float]:
    """Return the sum over the tokens of each chunk."""
    return [sum(token_nats[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
