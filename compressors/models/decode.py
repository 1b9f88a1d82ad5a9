"""Decode prompts in a batch that is refilled as its rows finish, over any runner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.runner import SlotSource
from attar.compressors.models.sampling import (
    GREEDY,
    Generation,
    Sampling,
    Scores,
    Trace,
    num_right,
    uniform_numbers,
)

# A prompt is read at about the cost of a step, so finished rows wait until this share of the batch has room, then go together.
REFILL_FRACTION = 1 / 8


def decode(
    runner: SlotSource,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch_size: int = 32,
    sampling: Sampling = GREEDY,
    seeds: Sequence[int] = (),
    num_recorded: int = 0,
    is_scored: bool = False,
    drafts: Drafts | None = None,
    on_finished: Callable[[int], None] = lambda count: None,
) -> list[Generation]:
    """Return the continuation of each prompt (token ids, at least one each), `batch_size` of them at a time.

    The longest prompts go first, and a finished row's place is given to the next prompt: padding and waiting are small.
    `seeds`: one a prompt when sampling; a row draws by the same numbers whatever batch it is in.
    `num_recorded` K: keep the K most probable tokens and their log-probabilities (nats, at temperature 1) at every step.
    `is_scored`: sum the log-probability of the drawn tokens; recording does so too.
    `drafts`: read likely next tokens in the same pass. Each is drawn as it would be without, so the texts are the same.
    """
    if not prompts:
        return []
    batch = _Batch(runner, prompts, max_new_tokens, batch_size, drafts)
    stops = set(stop_ids)
    traces = _traces(len(prompts), sampling, seeds, max_new_tokens)
    while batch.refill():
        passed = batch.passed([len(trace.token_ids) for trace in traces])
        logits = batch.step(passed)
        chosen = sampling.pick(logits, _uniforms(len(logits), () if sampling.is_greedy else passed, traces))
        tokens = chosen.tolist()  # the step waits for the device once, not once a row
        new = [_written(tokens[row.first : row.first + len(row.draft) + 1], row.draft, stops) for row in passed]
        is_read = is_scored or num_recorded
        scores = Scores.of(logits, chosen, _positions(passed, new), num_recorded) if is_read else None
        for row in passed:
            trace, own = traces[row.index], new.pop(0)
            trace.extend(own, row.draft, scores, is_last=own[-1] in stops)
            if trace.is_finished or len(trace.token_ids) == max_new_tokens:
                batch.release(row.slot)
                on_finished(1)
            else:
                batch.advance(row, own)
    return [trace.generation() for trace in traces]


def _traces(num_prompts: int, sampling: Sampling, seeds: Sequence[int], max_new_tokens: int) -> list[Trace]:
    if sampling.is_greedy:
        return [Trace() for _ in range(num_prompts)]
    drawn = zip(range(num_prompts), seeds or range(num_prompts), strict=True)
    return [Trace(uniforms=uniform_numbers(seed, max_new_tokens)) for _, seed in drawn]


@dataclass(frozen=True)
class _Row:
    """A row of one pass: its slot, its prompt, the first of its logits, and what was drafted behind its next token."""

    slot: int
    index: int
    first: int
    draft: list[int]


def _written(drawn: Sequence[int], draft: Sequence[int], stops: set[int]) -> list[int]:
    """Return the drawn tokens up to the first that was not drafted, or that ends the text: behind it others were read."""
    written = []
    for token, drafted in zip(drawn, [*draft, None], strict=True):
        written.append(token)
        if token != drafted or token in stops:
            break
    return written


def _positions(rows: Sequence[_Row], written: Sequence[Sequence[int]]) -> list[int]:
    """Return which logits drew a token that is written."""
    return [row.first + offset for row, new in zip(rows, written, strict=True) for offset in range(len(new))]


def _uniforms(num_logits: int, rows: Sequence[_Row], traces: Sequence[Trace]) -> Tensor:
    """Return the next numbers in [0, 1) of every live row's own sequence, 0 for the others."""
    uniforms = torch.zeros(num_logits)
    for row in rows:
        trace, last = traces[row.index], row.first + len(row.draft) + 1
        assert trace.uniforms is not None, "drawn when sampling"
        start = len(trace.token_ids)
        uniforms[row.first : last] = trace.uniforms[start : start + last - row.first]
    return uniforms


class _Batch:
    """Which prompt each row of the batch is decoding, what it is fed next, and who waits."""

    def __init__(
        self,
        runner: SlotSource,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_size: int,
        drafts: Drafts | None,
    ) -> None:
        self._prompts, self._max_new_tokens = prompts, max_new_tokens
        self._queue = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        self._num_rows = min(batch_size, len(prompts))
        self._num_free_wanted = max(1, int(self._num_rows * REFILL_FRACTION))
        shape = self._num_rows, len(prompts[self._queue[0]]), max_new_tokens
        self._ragged = drafts.source.open_ragged(*shape) if drafts else None
        self._slots = self._ragged or runner.open_slots(*shape)
        self._lookup = drafts.open(prompts) if drafts and self._ragged else None
        self._indices: list[int | None] = []  # the prompt of each row; None where it is done
        self._tokens: list[int] = []
        self._lengths: list[int] = []

    def refill(self) -> bool:
        """Give free rows to waiting prompts, or close the gaps where none waits. False when all is done."""
        free = [row for row, index in enumerate(self._indices) if index is None]
        free += range(len(self._indices), self._num_rows)
        num_new = min(len(free), len(self._queue))
        if num_new and num_new >= min(self._num_free_wanted, len(self._queue)):
            self._admit(free[:num_new])
        if not self._queue:
            self._close_gaps()
        return bool(self._indices)

    def passed(self, num_written: Sequence[int]) -> list[_Row]:
        """Return the rows that are not done, with what is drafted for each; `num_written` tokens are there of each prompt's text."""
        live = [(row, index) for row, index in enumerate(self._indices) if index is not None]
        if self._lookup is None:
            return [_Row(row, index, row, []) for row, index in live]
        rows, first = [], 0
        for row, index in live:
            draft = self._lookup.draft(index, len(live), self._max_new_tokens - num_written[index])
            rows.append(_Row(row, index, first, draft))
            first += len(draft) + 1
        return rows

    def step(self, rows: Sequence[_Row]) -> Float[Tensor, "N V"]:
        """Feed every row its next token and its draft."""
        if self._ragged is None:
            return self._slots.step(self._tokens, self._lengths)
        tokens: list[list[int]] = [[] for _ in self._indices]
        for row in rows:
            tokens[row.slot] = [self._tokens[row.slot], *row.draft]
        return self._ragged.read(tokens, self._lengths)

    def advance(self, row: _Row, new: Sequence[int]) -> None:
        """Go on behind these tokens."""
        self._tokens[row.slot] = new[-1]
        self._lengths[row.slot] += len(new)
        if self._lookup is not None:
            self._lookup.learn(row.index, len(row.draft), new, num_right(row.draft, new))

    def release(self, row: int) -> None:
        """Mark the row as done; until it is given away it stays in the batch as one token that nobody reads."""
        self._indices[row], self._lengths[row] = None, 0

    def _admit(self, rows: Sequence[int]) -> None:
        chosen = [self._queue.popleft() for _ in rows]
        self._slots.fill(rows, [self._prompts[index] for index in chosen])
        for row, index in zip(rows, chosen, strict=True):
            if row == len(self._indices):
                self._indices.append(None)
                self._tokens.append(0)
                self._lengths.append(0)
            self._indices[row], self._tokens[row] = index, self._prompts[index][-1]
            self._lengths[row] = len(self._prompts[index]) - 1

    def _close_gaps(self) -> None:
        for row in reversed(range(len(self._indices))):
            if self._indices[row] is None:
                last = len(self._indices) - 1
                if row < last:
                    self._slots.move(last, row)
                self._indices[row] = self._indices[last]
                self._tokens[row], self._lengths[row] = self._tokens[last], self._lengths[last]
                del self._indices[last], self._tokens[last], self._lengths[last]
