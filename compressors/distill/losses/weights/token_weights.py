"""How much each token counts. Weights carry no gradient; they multiply the loss per token, or (clip) bound it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import Route, SampleFacts, is_routed
from attar.compressors.distill.losses.token_stats import TokenStats

Statistic = Literal["student_entropy", "teacher_entropy", "own_logprobs", "is_first_choice"]


class TokenWeight(Protocol):
    """Turns the losses of some tokens (`tokens` of the batch that `stats` is of) into weighted ones.

    `needs`: statistics of the whole batch, taken in a pass without gradient. A weight with `is_mean_one` is divided by its mean over
    the tokens of the optimizer step: `raw` gives what that is the mean of, from the teacher alone.
    """

    is_mean_one: ClassVar[bool]

    @property
    def needs(self) -> frozenset[Statistic]: ...

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]: ...


@dataclass(frozen=True, kw_only=True)
class Gate:
    """sigmoid(H(S) - H(T)): tokens that the teacher is surer of than the student. https://arxiv.org/abs/2603.13260"""

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"student_entropy", "teacher_entropy"})

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        assert stats.student_entropy is not None and stats.teacher_entropy is not None, "asked for in `needs`"
        return loss * torch.sigmoid(stats.student_entropy - stats.teacher_entropy)[tokens]


@dataclass(frozen=True, kw_only=True)
class EntropyWeight:
    """exp(-beta H(T)) / its mean over the routed tokens of the step: uncertain teachers count less. https://arxiv.org/abs/2604.02288"""

    beta: float = 1.0

    is_mean_one: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"teacher_entropy"})

    def raw(self, stats: TokenStats) -> Float[Tensor, "N"]:
        """Return exp(-beta H(T)) of each token."""
        assert stats.teacher_entropy is not None, "asked for in `needs`"
        return (-self.beta * stats.teacher_entropy).exp()

    def step_sums(
        self, samples: Sequence[SampleFacts], route: Route, entropies: Callable[[], TokenStats]
    ) -> tuple[float, float]:
        """Return the sum over the routed tokens, and how many they are."""
        stats = entropies()
        routed = stats.of_samples([float(is_routed(sample, route)) for sample in samples])
        return float((self.raw(stats) * routed).sum()), float(routed.sum())

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        return loss * self.raw(stats)[tokens]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """min(loss, limit_nats): a token beyond the limit gives no gradient. https://arxiv.org/abs/2601.18734"""

    limit_nats: float

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset()

    def __post_init__(self) -> None:
        if self.limit_nats <= 0:
            raise ValueError(f"limit_nats is {self.limit_nats}; accepted: above 0")

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        return loss.clamp(max=self.limit_nats)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """Only the first tokens of a sequence: the fewest that hold `entropy_fraction` of its student entropy, at least one.

    https://arxiv.org/abs/2603.13260 (per sequence, as the paper says; the released code counts over the batch).
    """

    entropy_fraction: float = 0.1

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"student_entropy"})

    def __post_init__(self) -> None:
        check_fraction("entropy_fraction", self.entropy_fraction)

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        return loss * self.mask(stats)[tokens]

    def mask(self, stats: TokenStats) -> Float[Tensor, "N"]:
        """Return 1 for tokens of the opener, else 0."""
        assert stats.student_entropy is not None, "asked for in `needs`"
        mask = torch.zeros_like(stats.student_entropy)
        for positions in sequence_positions(stats):
            # float64, and held against the running sum's own end: another order of adding may end above it, which is then never reached
            held = stats.student_entropy[positions].double().cumsum(0)
            reached = held >= self.entropy_fraction * held[-1]
            mask[positions[: int(reached.int().argmax()) + 1]] = 1.0
        return mask


@dataclass(frozen=True, kw_only=True)
class TopEntropy:
    """Only the ceil(fraction T) tokens of each sequence that the student is least sure of; the loss is their mean.

    Each counts T / ceil(fraction T), so that the mean over all tokens of a sequence is the mean over those.
    """

    fraction: float = 0.1

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"student_entropy"})

    def __post_init__(self) -> None:
        check_fraction("fraction", self.fraction)

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        return loss * self.mask(stats)[tokens]

    def mask(self, stats: TokenStats) -> Float[Tensor, "N"]:
        """Return T / ceil(fraction T) for the chosen tokens, else 0."""
        assert stats.student_entropy is not None, "asked for in `needs`"
        mask = torch.zeros_like(stats.student_entropy)
        for positions in sequence_positions(stats):
            num_kept = math.ceil(self.fraction * len(positions) - 1e-9)
            top_indices = stats.student_entropy[positions].topk(num_kept).indices
            mask[positions[top_indices]] = len(positions) / num_kept
        return mask


@dataclass(frozen=True, kw_only=True)
class Confident:
    """Only tokens on which the entropy of student or teacher is at most `max_entropy_nats`."""

    max_entropy_nats: float
    of: Literal["student", "teacher"] = "student"

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        """The entropy it looks at."""
        return frozenset({"student_entropy" if self.of == "student" else "teacher_entropy"})

    def __post_init__(self) -> None:
        if self.of not in ("student", "teacher"):
            raise ValueError(f"of is {self.of!r}; accepted: student, teacher")

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        entropy = stats.student_entropy if self.of == "student" else stats.teacher_entropy
        assert entropy is not None, "asked for in `needs`"
        return loss * (entropy <= self.max_entropy_nats)[tokens]


@dataclass(frozen=True, kw_only=True)
class Correct:
    """Only tokens on which the student's first choice is the next token. https://arxiv.org/abs/2509.26488"""

    is_mean_one: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset({"is_first_choice"})

    def __call__(self, loss: Float[Tensor, "n"], stats: TokenStats, tokens: slice) -> Float[Tensor, "n"]:
        assert stats.is_first_choice is not None, "asked for in `needs`"
        return loss * stats.is_first_choice[tokens]


TOKEN_WEIGHTS: dict[str, type[TokenWeight]] = {
    "gate": Gate,
    "entropy": EntropyWeight,
    "clip": Clip,
    "opener": Opener,
    "top_entropy": TopEntropy,
    "confident": Confident,
    "correct": Correct,
}


def sequence_positions(stats: TokenStats) -> list[Tensor]:
    """Return the positions of each sequence's tokens, sequences without tokens left out."""
    counts = torch.bincount(stats.sequences, minlength=len(stats.samples)).tolist()
    order = stats.sequences.argsort(stable=True)
    return [positions for positions in order.split(counts) if len(positions)]


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless the value lies in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name} is {value}; accepted: above 0, at most 1")
