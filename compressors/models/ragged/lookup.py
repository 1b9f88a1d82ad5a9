"""Drafts without a model: what followed the last tokens where they stood before, in prompt or text.

A rewrite repeats its reference, so most of it can be looked up. https://github.com/apoorvumang/prompt-lookup-decoding
The model still chooses every token: a draft only says which ones it reads in one pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from attar.compressors.models.slots import RaggedSource

# Of so many equal tokens before a draft nothing more is learned from another.
MAX_MATCH = 8
# How many earlier occurrences of the last tokens are compared.
MAX_OCCURRENCES = 16
# What reading a pass's weights costs, in tokens: measured on a CPU in float32; an accelerator waits for its memory far longer.
TOKENS_A_PASS = {"cpu": 16.0}
TOKENS_A_PASS_ELSEWHERE = 256.0
# What a row's own keys and values cost to read, and a drafted token to check, in tokens.
ROW_COST, CHECK_COST = 0.6, 0.1
# Before anything is counted, so many of so many drafts are taken as right.
PRIOR_RIGHT, PRIOR_TRIED = 8.0, 10.0


@dataclass(frozen=True)
class Drafts:
    """Who reads several tokens of a row in one pass, and how many are drafted at most."""

    source: RaggedSource
    max_tokens: int = 8

    def open(self, prompts: Sequence[Sequence[int]]) -> PromptLookup:
        """Return the drafts of these prompts' continuations."""
        cost = TOKENS_A_PASS.get(self.source.device.type, TOKENS_A_PASS_ELSEWHERE)
        return PromptLookup(prompts, self.max_tokens, cost)


class PromptLookup:
    """Drafts for a batch of texts. It counts how often a draft was right, by how many tokens before it were equal.

    A token is drafted only while it is likelier to stay than it costs, so a model that does not repeat is not slowed down.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], max_tokens: int, tokens_a_pass: float) -> None:
        self._texts = [_Text(prompt) for prompt in prompts]
        self._max_tokens, self._tokens_a_pass = max_tokens, tokens_a_pass
        self._num_right = [PRIOR_RIGHT] * (MAX_MATCH + 1)
        self._num_tried = [PRIOR_TRIED] * (MAX_MATCH + 1)

    def draft(self, index: int, num_rows: int, num_left: int) -> list[int]:
        """Return the likely next tokens of a text, fewer than `num_left`. `num_rows`: texts that share the pass."""
        text = self._texts[index]
        position, text.num_equal = text.last_occurrence()
        # a pass costs its weights, and each row its keys and a token; a right draft saves a row's share of both
        least = (1.0 + CHECK_COST) / (self._tokens_a_pass / num_rows + 1.0 + ROW_COST)
        likelihood, length = 1.0, 0
        limit = min(self._max_tokens, num_left - 1, len(text.tokens) - position) if text.num_equal else 0
        while length < limit:
            match = min(text.num_equal + length, MAX_MATCH)
            likelihood *= self._num_right[match] / self._num_tried[match]
            if likelihood < least:
                break
            length += 1
        return text.tokens[position : position + length]

    def learn(self, index: int, num_drafted: int, written: Sequence[int], num_right: int) -> None:
        """Take what became of the draft: the tokens that the model chose, and how many of them were drafted."""
        text = self._texts[index]
        for length in range(min(num_right + 1, num_drafted)):
            match = min(text.num_equal + length, MAX_MATCH)
            self._num_tried[match] += 1.0
            self._num_right[match] += length < num_right
        text.extend(written)


@dataclass
class _Text:
    """A prompt and what was written behind it, with where each pair of tokens and each token occurred."""

    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    num_equal: int = 0
    _behind: dict[tuple[int, ...], list[int]] = field(default_factory=lambda: defaultdict(list))

    def extend(self, tokens: Sequence[int]) -> None:
        """Go on with these tokens. The newest occurrence is entered when something follows it."""
        for token in tokens:
            position = len(self.tokens)
            if position:
                self._behind[(self.tokens[-1],)].append(position)
            if position > 1:
                self._behind[self.tokens[-2], self.tokens[-1]].append(position)
            self.tokens.append(token)

    def last_occurrence(self) -> tuple[int, int]:
        """Return the position behind the longest earlier occurrence of the last tokens, the latest of equals, and its length."""
        if not self.tokens:
            self.extend(self.prompt)
        pair, token = tuple(self.tokens[-2:]), (self.tokens[-1],)
        positions = self._behind.get(pair) or self._behind.get(token) or []
        lengths = [(self._num_equal(position), position) for position in positions[-MAX_OCCURRENCES:]]
        length, position = max(lengths, default=(0, 0))
        return position, length

    def _num_equal(self, position: int) -> int:
        equal, tokens = 0, self.tokens
        while equal < min(MAX_MATCH, position) and tokens[position - 1 - equal] == tokens[-1 - equal]:
            equal += 1
        return equal
