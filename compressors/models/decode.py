"""Decode prompts in a batch that is refilled as its rows finish, over any runner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import SlotSource
from attar.compressors.models.sampling import GREEDY, Generation, Sampling, uniform_numbers

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
    on_finished: Callable[[int], None] = lambda count: None,
) -> list[Generation]:
    """Return the continuation of each prompt (token ids, at least one each), `batch_size` of them at a time.

    The longest prompts go first, and a finished row's place is given to the next prompt: padding and waiting are small.
    `seeds`: one a prompt when sampling; a row draws by the same numbers whatever batch it is in.
    `num_recorded` K: keep the K most probable tokens and their log-probabilities (nats, at temperature 1) at every step.
    `is_scored`: sum the log-probability of the drawn tokens; recording does so too.
    """
    if not prompts:
        return []
    batch = _Batch(runner, prompts, max_new_tokens, batch_size)
    stops = set(stop_ids)
    traces = [_Trace() for _ in prompts]
    if not sampling.is_greedy:
        for trace, seed in zip(traces, seeds or range(len(prompts)), strict=True):
            trace.uniforms = uniform_numbers(seed, max_new_tokens)
    while batch.refill():
        logits = batch.step()
        live = batch.live()
        chosen = sampling.pick(logits, _uniforms(len(logits), () if sampling.is_greedy else live, traces))
        scores = _Scores.of(logits, chosen, num_recorded) if is_scored or num_recorded else None
        tokens = chosen.tolist()  # the step waits for the device once, not once a row
        for (row, index), token in zip(live, [tokens[row] for row, _ in live], strict=True):
            traces[index].append(token, row, scores, is_last=token in stops)
            if token in stops or len(traces[index].token_ids) == max_new_tokens:
                batch.release(row)
                on_finished(1)
            else:
                batch.advance(row, token)
    return [trace.generation() for trace in traces]


def _uniforms(num_rows: int, live: Sequence[tuple[int, int]], traces: Sequence[_Trace]) -> Tensor:
    """Return the next number in [0, 1) of every live row's own sequence, 0 for the others."""
    uniforms = torch.zeros(num_rows)
    for row, index in live:
        uniforms[row] = traces[index].next_uniform()
    return uniforms


class _Batch:
    """Which prompt each row of the batch is decoding, what it is fed next, and who waits."""

    def __init__(
        self, runner: SlotSource, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
    ) -> None:
        self._prompts = prompts
        self._queue = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        self._num_rows = min(batch_size, len(prompts))
        self._num_free_wanted = max(1, int(self._num_rows * REFILL_FRACTION))
        self._slots = runner.open_slots(self._num_rows, len(prompts[self._queue[0]]), max_new_tokens)
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

    def step(self) -> Float[Tensor, "B V"]:
        """Feed every row its next token."""
        return self._slots.step(self._tokens, self._lengths)

    def live(self) -> list[tuple[int, int]]:
        """Return (row, prompt index) of the rows that are not done."""
        return [(row, index) for row, index in enumerate(self._indices) if index is not None]

    def advance(self, row: int, token: int) -> None:
        """Go on with this token."""
        self._tokens[row] = token
        self._lengths[row] += 1

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


@dataclass(frozen=True)
class _Scores:
    """Of one step: log-probabilities of the chosen tokens, and the recorded candidates."""

    chosen: list[float]
    top_ids: Int[Tensor, "B K"] | None
    top_logprobs: Float[Tensor, "B K"] | None

    @classmethod
    def of(cls, logits: Float[Tensor, "B V"], chosen: Int[Tensor, "B"], num_recorded: int) -> _Scores:
        """Normalise without writing a vocabulary of log-probabilities: a logit minus the log of the sum of exponentials."""
        logits = logits.float()
        log_total = logits.logsumexp(dim=-1, keepdim=True)
        own = (logits.gather(-1, chosen[:, None]) - log_total).squeeze(-1).tolist()
        if not num_recorded:
            return cls(own, None, None)
        values, ids = logits.topk(min(num_recorded, logits.shape[-1]), dim=-1)
        return cls(own, ids.cpu(), (values - log_total).cpu())


@dataclass
class _Trace:
    """One prompt's continuation while it grows."""

    token_ids: list[int] = field(default_factory=list)
    is_finished: bool = False
    uniforms: Float[Tensor, "T"] | None = None
    _logprobs: list[float] = field(default_factory=list)
    _top_ids: list[Int[Tensor, "K"]] = field(default_factory=list)
    _top_logprobs: list[Float[Tensor, "K"]] = field(default_factory=list)

    def next_uniform(self) -> float:
        """Return the random number of the next token."""
        assert self.uniforms is not None, "drawn when sampling"
        return float(self.uniforms[len(self.token_ids)])

    def append(self, token: int, row: int, scores: _Scores | None, *, is_last: bool) -> None:
        """Take the token that was drawn in this row."""
        self.token_ids.append(token)
        self.is_finished = is_last
        if scores is not None:
            self._logprobs.append(scores.chosen[row])
            if scores.top_ids is not None and scores.top_logprobs is not None:
                self._top_ids.append(scores.top_ids[row])
                self._top_logprobs.append(scores.top_logprobs[row])

    def generation(self) -> Generation:
        """Return what was written."""
        return Generation(
            token_ids=self.token_ids,
            is_finished=self.is_finished,
            logprob_nats=math.fsum(self._logprobs) if self._logprobs else None,
            top_ids=torch.stack(self._top_ids) if self._top_ids else None,
            top_logprobs=torch.stack(self._top_logprobs) if self._top_logprobs else None,
            token_logprobs=tuple(self._logprobs),
        )
