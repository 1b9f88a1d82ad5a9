"""Targets: the distribution that the student is to become, made of what teacher, past self, anchor and labels say. Without gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.losses.divergences.mixtures import mix_logprobs
from attar.compressors.distill.losses.targets.kl_ball import nearest_in_ball
from attar.compressors.distill.losses.targets.target_heat import bisect, entropy_of, raised_entropy, tempered
from attar.compressors.distill.losses.views import ViewName, Views

VIEW_NAMES: tuple[ViewName, ...] = ("teacher", "past", "anchor", "labels")


class TargetOp(Protocol):
    """Makes log-probabilities (nats) of a target out of views.

    `views`: which teacher sources it reads. `needs_whole`: it multiplies or tempers, which recorded candidates with a rest do not allow.
    """

    @property
    def views(self) -> tuple[ViewName, ...]: ...

    @property
    def needs_whole(self) -> bool: ...

    def __call__(self, views: Views) -> Float[Tensor, "N C"]: ...


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The output of one teacher source."""

    of: ViewName = "teacher"

    needs_whole = False

    def __post_init__(self) -> None:
        check_views(self.of)

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.of,)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        return views.of(self.of).detach()


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Mix of two views. share first + (1 - share) second, `share` in [0, 1]; labels or a base teacher that every generation keeps a part of.

    https://arxiv.org/abs/2006.12000, https://arxiv.org/abs/2102.13088, https://arxiv.org/abs/2601.13100
    """

    share: float
    first: ViewName = "labels"
    second: ViewName = "teacher"

    needs_whole = False

    def __post_init__(self) -> None:
        check_views(self.first, self.second)
        check_share(self.share)

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.first, self.second)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        if self.share in (0.0, 1.0):
            return views.of(self.first if self.share else self.second).detach()
        return mix_logprobs(views.of(self.first).detach(), views.of(self.second).detach(), self.share)


@dataclass(frozen=True, kw_only=True)
class GeometricMix:
    """first^share second^(1 - share), normalised. https://arxiv.org/abs/2601.13100"""

    share: float
    first: ViewName = "anchor"
    second: ViewName = "teacher"

    needs_whole = True

    def __post_init__(self) -> None:
        check_views(self.first, self.second)
        check_share(self.share)
        if "labels" in (self.first, self.second) and self.share not in (0.0, 1.0):
            raise ValueError("a geometric mix with labels is the labels, whatever its share; use mix")

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.first, self.second)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        first, second = views.of(self.first).detach(), views.of(self.second).detach()
        return (self.share * first + (1.0 - self.share) * second).log_softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Temper:
    """p^(1 / temperature), normalised: above 1 softer, below 1 sharper."""

    temperature: float
    of: ViewName = "teacher"

    needs_whole = True

    def __post_init__(self) -> None:
        check_views(self.of)
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; accepted: above 0")

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.of,)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        return tempered(views.of(self.of).detach(), self.temperature)


@dataclass(frozen=True, kw_only=True)
class EntropyTemper:
    """Temper each token so that its entropy H rises to H + 0.5 sigmoid(2 (H - 1.2)) nats. Hotter where it is already uncertain.

    The temperature is searched in [lowest, highest] by `num_halvings`; at H <= `sure_nats` it is the lowest (without that rule a nearly
    certain token would get the highest). The entropy is that of the `num_top` likeliest. https://arxiv.org/abs/2602.02244
    """

    of: ViewName = "past"
    lowest: float = 1.1
    highest: float = 1.5
    num_halvings: int = 20
    num_top: int = 512
    sure_nats: float = 0.03

    needs_whole = True

    def __post_init__(self) -> None:
        check_views(self.of)
        if not 0 < self.lowest <= self.highest:
            raise ValueError(
                f"lowest and highest are {self.lowest} and {self.highest}; accepted: 0 < lowest <= highest"
            )

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.of,)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        logprobs = views.of(self.of).detach()
        return tempered(logprobs, self.temperatures(logprobs)[:, None])

    def temperatures(self, logprobs: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
        """Return the temperature of each token."""
        top = logprobs.topk(min(self.num_top, logprobs.shape[-1]), dim=-1).values.log_softmax(dim=-1)
        entropy = entropy_of(top)
        wanted = raised_entropy(entropy)
        low, high = torch.full_like(entropy, self.lowest), torch.full_like(entropy, self.highest)
        heats = bisect(
            lambda heat: entropy_of(tempered(top, heat[:, None])) < wanted, low, high, num_halvings=self.num_halvings
        )
        return torch.where(entropy <= self.sure_nats, torch.full_like(heats, self.lowest), heats)


@dataclass(frozen=True, kw_only=True)
class KLBall:
    """The point nearest to `toward` among all q with KL(q || center) <= budget_nats. center^(1-t) toward^t, normalised, t in [0, 1].

    Budget 0 is the center, a budget of KL(toward || center) or more is `toward`. https://arxiv.org/abs/2602.07120
    """

    budget_nats: float
    center: ViewName = "anchor"
    toward: ViewName = "teacher"

    needs_whole = True

    def __post_init__(self) -> None:
        check_views(self.center, self.toward)
        if self.budget_nats < 0:
            raise ValueError(f"budget_nats is {self.budget_nats}; accepted: 0 or more")
        if "labels" in (self.center, self.toward):
            raise ValueError("a KL ball needs two distributions with mass everywhere; labels have it at one token")

    @property
    def views(self) -> tuple[ViewName, ...]:
        return (self.center, self.toward)

    def __call__(self, views: Views) -> Float[Tensor, "N C"]:
        center, toward = views.of(self.center).detach(), views.of(self.toward).detach()
        budgets = torch.full_like(center[:, 0], self.budget_nats)
        return nearest_in_ball(center, toward, budgets)[0]


TARGETS: dict[str, type[TargetOp]] = {
    "identity": Identity,
    "mix": Mix,
    "geometric_mix": GeometricMix,
    "temper": Temper,
    "entropy_temper": EntropyTemper,
    "kl_ball": KLBall,
}


def check_views(*names: str) -> None:
    """Raise ValueError for an unknown teacher source."""
    for name in names:
        if name not in VIEW_NAMES:
            raise ValueError(f"no teacher source {name!r}; accepted: {', '.join(VIEW_NAMES)}")


def check_share(share: float) -> None:
    """Raise ValueError unless the share is one."""
    if not 0.0 <= share <= 1.0 or math.isnan(share):
        raise ValueError(f"share is {share}; accepted: from 0 to 1")


def share_sums(
    on_labels: Float[Tensor, "N V"], on_teacher: Float[Tensor, "N V"], label_ids: Int[Tensor, "N"]
) -> tuple[float, float]:
    """Return (<y - b, a - b>, ||a - b||^2) over N held-out tokens. What `best_share` divides, to be added up over batches.

    a and b: probabilities of the student fitted to the labels alone, and of the one fitted to the teacher alone; y: one-hot labels.
    """
    gap = on_labels - on_teacher
    at_label = gap.gather(-1, label_ids[:, None]).squeeze(-1)
    numerator = at_label - torch.linalg.vecdot(on_teacher, gap)
    return float(numerator.sum()), float(torch.linalg.vecdot(gap, gap).sum())


def best_share(numerator: float, denominator: float) -> float:
    """Return alpha = <y - b, a - b> / ||a - b||^2 within [0, 1]. The least held-out squared error of alpha a + (1 - alpha) b.

    Exact where predictions are affine in alpha, as in kernel ridge regression; two trainings instead of one for each alpha of a grid.
    Students that predict the same leave it open: then 1, the labels. https://arxiv.org/abs/2102.13088
    """
    return 1.0 if denominator == 0.0 else min(1.0, max(0.0, numerator / denominator))
