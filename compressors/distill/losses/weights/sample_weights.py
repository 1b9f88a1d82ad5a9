"""How much each sequence counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import Fact, Route, SampleFacts, is_routed
from attar.compressors.distill.losses.token_stats import TokenStats


class SampleWeight(Protocol):
    """Weighs a sequence by its facts and the student's mean loss on it. In nats a token; empty unless `needs_loss`.

    `is_mean_one`: the weights are divided by their mean over the sequences of the step.
    """

    needs_loss: ClassVar[bool]
    is_mean_one: ClassVar[bool]

    @property
    def reads(self) -> frozenset[Fact]:
        """Facts without which it cannot tell sequences apart."""
        ...

    def __call__(self, samples: Sequence[SampleFacts], losses: Sequence[float]) -> list[float]: ...


@dataclass(frozen=True, kw_only=True)
class BetaKernel:
    """Weight by the prompt's pass rate p. p^alpha (1 - p)^beta, highest at alpha / (alpha + beta), divided by its mean over the step.

    What is always or never solved counts nothing, unless its exponent is 0. https://arxiv.org/abs/2603.11178
    """

    alpha: float = 1.0
    beta: float = 1.0

    needs_loss: ClassVar[bool] = False
    is_mean_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 0:
            raise ValueError(f"alpha and beta are {self.alpha} and {self.beta}; accepted: 0 or more")

    def __call__(self, samples: Sequence[SampleFacts], losses: Sequence[float]) -> list[float]:
        return [self.at(_given("pass_rate", sample.pass_rate)) for sample in samples]

    @property
    def reads(self) -> frozenset[Fact]:
        return frozenset({"pass_rates"} if max(self.alpha, self.beta) > 0 else ())

    def step_sums(
        self, samples: Sequence[SampleFacts], route: Route, entropies: Callable[[], TokenStats]
    ) -> tuple[float, float]:
        """Return the sum over the routed sequences, and how many they are."""
        routed = [float(is_routed(sample, route)) for sample in samples]
        return sum(value * keep for value, keep in zip(self(samples, []), routed, strict=True)), sum(routed)

    def at(self, pass_rate: float) -> float:
        """Return the kernel at one pass rate."""
        return pass_rate**self.alpha * (1.0 - pass_rate) ** self.beta


@dataclass(frozen=True, kw_only=True)
class SelfPaced:
    """Easy sequences first: 1 where the student's mean loss L is below kappa_nats (`is_hard`), else exp(-L / kappa_nats).

    Ramp `sample_weight.kappa_nats` up, so that all come in. https://arxiv.org/abs/2205.11162
    """

    kappa_nats: float
    is_hard: bool = True

    needs_loss: ClassVar[bool] = True
    is_mean_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.kappa_nats <= 0:
            raise ValueError(f"kappa_nats is {self.kappa_nats}; accepted: above 0")

    @property
    def reads(self) -> frozenset[Fact]:
        return frozenset()

    def __call__(self, samples: Sequence[SampleFacts], losses: Sequence[float]) -> list[float]:
        if self.is_hard:
            return [float(loss < self.kappa_nats) for loss in losses]
        return [math.exp(-loss / self.kappa_nats) for loss in losses]


@dataclass(frozen=True, kw_only=True)
class DivergenceAware:
    """Weight by the share of sentences that are the teacher's own. With `min_score`: 1 from that share on and 0 below.

    See `teacher_score`. https://arxiv.org/abs/2601.09088
    """

    min_score: float = 0.0

    needs_loss: ClassVar[bool] = False
    is_mean_one: ClassVar[bool] = False

    @property
    def reads(self) -> frozenset[Fact]:
        return frozenset({"scores"})

    def __call__(self, samples: Sequence[SampleFacts], losses: Sequence[float]) -> list[float]:
        scores = [_given("score", sample.score) for sample in samples]
        return [float(score >= self.min_score) for score in scores] if self.min_score else scores


SAMPLE_WEIGHTS: dict[str, type[SampleWeight]] = {
    "beta_kernel": BetaKernel,
    "self_paced": SelfPaced,
    "divergence_aware": DivergenceAware,
}


def teacher_score(
    teacher: Float[Tensor, "T"], student: Float[Tensor, "T"], ends: Sequence[int], delta_nats: float = math.log(2.0)
) -> float:
    """Return the share of sentences that are the teacher's. Mean log T(y) - mean log S(y) > delta_nats, in [0, 1].

    `ends`: one past the last token of each sentence. The mean is the log of the geometric mean, so that length does not matter.
    `student` is the model before distillation. https://arxiv.org/abs/2601.09088; delta_nats is our choice, the paper names none.
    """
    gaps = [
        float(teacher[start:end].mean() - student[start:end].mean())
        for start, end in zip([0, *ends], ends, strict=False)
        if end > start
    ]
    return sum(gap > delta_nats for gap in gaps) / max(1, len(gaps))


def _given(name: str, value: float | None) -> float:
    if value is None:
        raise ValueError(f"the sample weight reads {name}, but a row has none: let self_data or a rollout find it")
    return value
