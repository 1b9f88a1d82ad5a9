"""Which experts stay: scores of experts, the highest of each block, and merging as another way. Removed are the lowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.experts import MoeLayer
from attar.compressors.prune.experts.scan import Routed

# weights: no pass. routed: a pass. dense: a pass in which every expert computes every token.
Source = Literal["weights", "routed", "dense"]


@dataclass(frozen=True)
class Evidence:
    """What a method may look at. Neighbours of one mixture that compete for the places of a group, and their sums."""

    layer: MoeLayer
    group: slice
    routed: Routed

    def __len__(self) -> int:
        """Return how many experts compete."""
        return self.group.stop - self.group.start


@dataclass(frozen=True)
class Assignment:
    """The experts that keep their row in the router, ascending. Merged ones hold shares of all, row by row."""

    kept_experts: Int[Tensor, "M"]
    shares: Float[Tensor, "M N"] | None = None
    # whether the router's rows are averaged with the same shares
    has_mean_rows: bool = False


class ExpertMethod(Protocol):
    """Chooses which of a group's experts stay. `scores` is what it goes by, at least 0, high means it stays."""

    source: ClassVar[Source]

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]: ...

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment: ...


@dataclass(frozen=True)
class Reap:
    """Mean over the tokens sent to an expert of router weight times L2 norm of its output. https://arxiv.org/abs/2510.13999"""

    source: ClassVar[Source] = "routed"

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        return seen.routed.weighted_norms / seen.routed.counts.clamp(min=1)

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class Frequency:
    """Tokens that were sent to an expert."""

    source: ClassVar[Source] = "routed"

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        return seen.routed.counts

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class RouterWeight:
    """Sum over tokens of the router's weight for an expert."""

    source: ClassVar[Source] = "routed"

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        return seen.routed.weights

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class ActivationNorm:
    """Sum over the tokens sent to an expert of the L2 norm of its output, without the weight. https://arxiv.org/abs/2504.05586"""

    source: ClassVar[Source] = "routed"

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        return seen.routed.norms

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class Magnitude:
    """L2 norm of an expert's weights; no data. A control."""

    source: ClassVar[Source] = "weights"

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        squares = [
            tensor[seen.group].detach().double().flatten(1).pow(2).sum(dim=1).cpu()
            for tensor in seen.layer.experts.parameters()
        ]
        return torch.stack(squares).sum(dim=0).sqrt()

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class Random:
    """Uniform in [0, 1), from a seed; no data. A control."""

    source: ClassVar[Source] = "weights"
    seed: int = 0

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        seed = 1_000_003 * self.seed + 1_009 * seen.layer.block_index + seen.group.start
        return torch.rand(len(seen), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        return _highest(self.scores(seen), num_kept)


@dataclass(frozen=True)
class Merge:
    """Experts with near mean outputs become one, their weights averaged by frequency: HC-SMoE. https://arxiv.org/abs/2410.08589

    Clusters by average linkage of the Euclidean distance of outputs, each a mean over all tokens. The paper keeps every row of the
    router and points it at the merged expert, which no plain config can say. `router`: dominant keeps the row of the cluster's most
    frequent expert, mean averages the rows as the weights.
    """

    source: ClassVar[Source] = "dense"
    router: str = "dominant"

    def __post_init__(self) -> None:
        if self.router not in ("dominant", "mean"):
            raise ValueError(f"router is {self.router!r}; accepted: dominant, mean")

    def scores(self, seen: Evidence) -> Float[Tensor, "N"]:
        return seen.routed.counts

    def __call__(self, seen: Evidence, num_kept: int) -> Assignment:
        counts = seen.routed.counts
        means = seen.routed.outputs / counts.sum().clamp(min=1)  # one factor for all: it changes no cluster
        clusters = [torch.tensor(members) for members in average_linkage(torch.cdist(means, means), num_kept)]
        leaders = torch.stack([members[counts[members].argmax()] for members in clusters])
        shares = torch.zeros(num_kept, len(seen), dtype=torch.float64)
        for row, members in enumerate(clusters):
            own = counts[members] if counts[members].sum() > 0 else torch.ones(len(members), dtype=torch.float64)
            shares[row, members] = own / own.sum()
        order = leaders.argsort()
        return Assignment(leaders[order], shares[order], has_mean_rows=self.router == "mean")


EXPERT_METHODS: dict[str, type[ExpertMethod]] = {
    "reap": Reap,
    "frequency": Frequency,
    "router_weight": RouterWeight,
    "activation_norm": ActivationNorm,
    "magnitude": Magnitude,
    "random": Random,
    "merge": Merge,
}


def assign(method: ExpertMethod, layer: MoeLayer, routed: Routed, num_kept: int) -> Assignment:
    """Return which experts of a mixture stay. As many of each of the router's groups, so that it can still choose by them."""
    size, num_groups = layer.group_size, layer.routing.num_groups
    groups = [slice(first, first + size) for first in range(0, layer.routing.num_experts, size)]
    assignments = [method(Evidence(layer, group, routed.of(group)), num_kept // num_groups) for group in groups]
    kept_experts = torch.cat([group.start + own.kept_experts for group, own in zip(groups, assignments, strict=True)])
    shares = [own.shares for own in assignments if own.shares is not None]
    return Assignment(kept_experts, torch.block_diag(*shares) if shares else None, assignments[0].has_mean_rows)


def scores_of(method: ExpertMethod, layer: MoeLayer, routed: Routed) -> Float[Tensor, "N"]:
    """Return the method's scores of all experts of a mixture, group by group."""
    size = layer.group_size
    groups = [slice(first, first + size) for first in range(0, layer.routing.num_experts, size)]
    return torch.cat([method.scores(Evidence(layer, group, routed.of(group))) for group in groups])


def refuse_unseen(scores: Sequence[Tensor], layers: Sequence[MoeLayer]) -> None:
    """Raise ValueError, naming the block, when a score is not a finite number."""
    for layer, own in zip(layers, scores, strict=True):
        if not torch.isfinite(own).all():
            raise ValueError(f"block {layer.block_index}: a score of its experts is not a finite number")


def _highest(scores: Float[Tensor, "N"], num_kept: int) -> Assignment:
    """Keep the `num_kept` highest; of equal scores the earlier expert stays."""
    return Assignment(scores.argsort(descending=True, stable=True)[:num_kept].sort().values)


def average_linkage(distances: Float[Tensor, "N N"], num_clusters: int) -> list[list[int]]:
    """Return clusters of indices: the nearest two are joined until `num_clusters` are left.

    Two clusters are as far apart as their members are in the mean (UPGMA); of equal pairs the earlier is joined.
    """
    between = distances.double().clone().fill_diagonal_(torch.inf)
    clusters: list[list[int] | None] = [[index] for index in range(len(distances))]
    for _ in range(len(distances) - num_clusters):
        first, other = sorted(divmod(int(between.argmin()), len(distances)))
        own, joined = clusters[first], clusters[other]
        assert own is not None and joined is not None, "joined clusters are infinitely far"
        mean = (len(own) * between[first] + len(joined) * between[other]) / (len(own) + len(joined))
        between[first], between[:, first] = mean, mean
        between[first, first] = torch.inf
        between[other], between[:, other] = torch.inf, torch.inf
        clusters[first], clusters[other] = [*own, *joined], None
    return [sorted(members) for members in clusters if members is not None]
