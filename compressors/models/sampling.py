"""How the next token is drawn, and what a finished continuation is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 is greedy; `top_p` in (0, 1] keeps the smallest set of that mass."""

    temperature: float = 0.0
    top_p: float = 1.0

    @property
    def is_greedy(self) -> bool:
        """Whether no number is drawn."""
        return self.temperature == 0.0

    def pick(self, logits: Float[Tensor, "B V"], uniforms: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
        """Return one token a row: the first whose cumulative probability exceeds the row's uniform number in [0, 1).

        One number a row and token, drawn by the caller, is all the randomness there is: who else is in the batch cannot matter.
        """
        if self.is_greedy:
            chosen = logits.argmax(dim=-1)  # of a row that holds NaN it is the NaN
            refuse_nan(logits.gather(-1, chosen[:, None]))
            return chosen
        probs = refuse_nan((logits.float() / self.temperature).softmax(dim=-1))
        if self.top_p == 1.0:  # sorting a vocabulary costs more than a block; without a cut it is not needed
            return _first_above(probs, uniforms)
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        # a token stays while the mass before it is below top_p, so at least one does
        ordered = ordered * ((ordered.cumsum(dim=-1) - ordered) < self.top_p)
        return order.gather(-1, _first_above(ordered, uniforms)[:, None]).squeeze(-1)

    def misses(
        self, logits: Float[Tensor, "B V"], uniforms: Float[Tensor, "B"], tokens: Int[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return how far each token is from the one that `pick` takes, 0 where it is that one.

        Greedy: by how many nats the best token is likelier. Sampled: the mass between the token's share and the uniform number.
        """
        logits = logits.float()
        if self.is_greedy:
            return logits.amax(dim=-1) - logits.gather(-1, tokens[:, None]).squeeze(-1)
        ordered, order = (logits / self.temperature).softmax(dim=-1), None
        if self.top_p < 1.0:
            ordered, order = ordered.sort(dim=-1, descending=True, stable=True)
            ordered = ordered * ((ordered.cumsum(dim=-1) - ordered) < self.top_p)
        ends = ordered.cumsum(dim=-1)
        positions = tokens[:, None] if order is None else (order == tokens[:, None]).int().argmax(-1, keepdim=True)
        last = ends.gather(-1, positions).squeeze(-1)
        first = last - ordered.gather(-1, positions).squeeze(-1)
        bars = uniforms.to(logits.device) * ends[:, -1]
        return torch.maximum(first - bars, bars - last).clamp(min=0.0) / ends[:, -1]


GREEDY = Sampling()


def refuse_nan(numbers: Tensor) -> Tensor:
    """Return what was made of a model's logits. Raises ValueError when it holds NaN.

    To an argmax NaN is the largest number: a broken model would "choose" the first answer of every question, and score like a guess.
    """
    if bool(numbers.isnan().any()):
        raise ValueError(
            "the model's logits are NaN: its numbers grew past its precision; measure it in float32 (precision: float32), or look at its weights"
        )
    return numbers


def uniform_numbers(seed: int, num_tokens: int) -> Float[Tensor, "T"]:
    """Return the random numbers of one row, by its own generator: the same whatever batch the row is in."""
    return torch.rand(num_tokens, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Generation:
    """New tokens of one prompt, the stop token included where one was drawn. How likely they were, and their recorded candidates.

    `logprob_nats` is the sum over the tokens at temperature 1, None where it was not asked for, `token_logprobs` what it is the sum of.
    `num_accepted` of `num_drafted` tokens were drafted and stayed: each of them saved a pass.
    """

    token_ids: list[int]
    is_finished: bool
    logprob_nats: float | None = None
    top_ids: Int[Tensor, "T K"] | None = None
    top_logprobs: Float[Tensor, "T K"] | None = None
    token_logprobs: tuple[float, ...] = ()
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def mean_logprob_nats(self) -> float | None:
        """Mean log-probability of a token in nats; higher is likelier."""
        return None if self.logprob_nats is None else self.logprob_nats / max(1, len(self.token_ids))


@dataclass
class Scores:
    """Of one pass: log-probabilities of the tokens that are written, and the recorded candidates. They are taken row by row."""

    chosen: list[float]
    top_ids: Int[Tensor, "B K"] | None
    top_logprobs: Float[Tensor, "B K"] | None
    num_taken: int = 0

    @classmethod
    def of(
        cls, logits: Float[Tensor, "N V"], chosen: Int[Tensor, "N"], written: list[int], num_recorded: int
    ) -> Scores:
        """Normalise without writing a vocabulary of log-probabilities: a logit minus the log of the sum of exponentials."""
        if len(written) < len(logits):
            rows = torch.tensor(written, device=logits.device)
            logits, chosen = logits[rows], chosen[rows]
        logits = logits.float()
        log_total = logits.logsumexp(dim=-1, keepdim=True)
        own = (logits.gather(-1, chosen[:, None]) - log_total).squeeze(-1).tolist()
        if not num_recorded:
            return cls(own, None, None)
        values, ids = logits.topk(min(num_recorded, logits.shape[-1]), dim=-1)
        return cls(own, ids.cpu(), (values - log_total).cpu())

    def next(self, count: int) -> slice:
        """Return where the scores of the next `count` tokens are."""
        self.num_taken += count
        return slice(self.num_taken - count, self.num_taken)


@dataclass
class Trace:
    """One prompt's continuation while it grows."""

    token_ids: list[int] = field(default_factory=list)
    is_finished: bool = False
    uniforms: Float[Tensor, "T"] | None = None
    num_drafted: int = 0
    num_accepted: int = 0
    _logprobs: list[float] = field(default_factory=list)
    _top_ids: list[Int[Tensor, "T K"]] = field(default_factory=list)
    _top_logprobs: list[Float[Tensor, "T K"]] = field(default_factory=list)

    def extend(self, tokens: Sequence[int], draft: Sequence[int], scores: Scores | None, *, is_last: bool) -> None:
        """Take the tokens that were drawn in this row behind `draft`; their scores are the next ones."""
        self.token_ids += tokens
        self.is_finished = is_last
        self.num_drafted += len(draft)
        self.num_accepted += num_right(draft, tokens)
        if scores is not None:
            its = scores.next(len(tokens))
            self._logprobs += scores.chosen[its]
            if scores.top_ids is not None and scores.top_logprobs is not None:
                self._top_ids.append(scores.top_ids[its])
                self._top_logprobs.append(scores.top_logprobs[its])

    def generation(self) -> Generation:
        """Return what was written."""
        return Generation(
            token_ids=self.token_ids,
            is_finished=self.is_finished,
            logprob_nats=math.fsum(self._logprobs) if self._logprobs else None,
            top_ids=torch.cat(self._top_ids) if self._top_ids else None,
            top_logprobs=torch.cat(self._top_logprobs) if self._top_logprobs else None,
            token_logprobs=tuple(self._logprobs),
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )


def num_right(draft: Sequence[int], written: Sequence[int]) -> int:
    """Return how many drafted tokens were drawn too. Only the last written token can differ from its draft."""
    return sum(drafted == token for drafted, token in zip(draft, written, strict=False))


def _first_above(weights: Float[Tensor, "B V"], uniforms: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    cumulative = weights.cumsum(dim=-1)
    # scaled by the total, which is below 1 after a cut; a token without mass is never the first above
    bars = (uniforms.to(weights.device) * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, bars, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)
