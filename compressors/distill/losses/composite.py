"""One objective made of components: divergence, target, token weights, sample weight, route.

    loss of token t of sequence i  =  s_i * w_it * D(target_it, student_it)

The reduction sums it over the routed tokens and divides once: by the tokens of the step, so that a long answer weighs more, or, as some
papers have it, after the mean of each sequence by their number. A method of the literature is a choice of components.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.examples.sample_facts import Route, is_routed
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.targets.target_ops import Identity, TargetOp
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.traits import Divergence, Drawn, Traits
from attar.compressors.distill.losses.views import Targets, TokenViews, ViewName, Views, views_of
from attar.compressors.distill.losses.weights.sample_weights import SampleWeight
from attar.compressors.distill.losses.weights.token_weights import Statistic, TokenWeight

# Sources that may stand in for one that moves with the student, in this order.
STAYING: tuple[ViewName, ...] = ("teacher", "anchor", "past")
# sum_it l_it / sum_i T_i over the tokens of a step, or 1/N sum_i (1/T_i) sum_t l_it over its N sequences of T_i tokens.
Mean = Literal["token", "sequence"]


@dataclass(frozen=True, kw_only=True)
class Distil:
    """Pull the student toward a target by a divergence, token by token. Everything but the student is without gradient.

    `temperature` T softens student and sources alike, p^(1/T) normalised, and the loss is multiplied by T^2, so that its gradient keeps its
    size. https://arxiv.org/abs/1503.02531
    """

    divergence: Divergence
    target: TargetOp = field(default_factory=Identity)
    temperature: float = 1.0
    token_weights: tuple[TokenWeight, ...] = ()
    sample_weight: SampleWeight | None = None
    route: Route = "all"
    reduction: Mean = "token"

    def __post_init__(self) -> None:
        check_support(self.divergence, self.target)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; accepted: above 0")

    @property
    def sources(self) -> frozenset[ViewName]:
        """Whose views it reads, the teacher's included where a token weight looks at them."""
        read = set(self.target.views) if self.divergence.traits.needs_target else set()
        if self._weighs_by_teacher:
            read.add("teacher")
        return frozenset(read)

    @property
    def is_whole(self) -> bool:
        """Whether candidates with a rest do not do."""
        traits = self.divergence.traits
        return (
            self.temperature != 1.0
            or self._weighs_by_teacher
            or traits.needs_whole
            or (traits.needs_target and self.target.needs_whole)
        )

    @property
    def requires(self) -> Requires:
        traits, weight = self.divergence.traits, self.sample_weight
        statistics: set[Statistic] = {name for weight in self.token_weights for name in weight.needs}
        if weight is not None and weight.needs_loss:
            statistics.add("own_logprobs")
        every = (*self.token_weights, *([weight] if weight else []))
        # all of the labels' mass is on one entry, which is always there and stands for itself
        is_density = traits.reads_density and self.sources != {"labels"}
        return Requires(
            sources=self.sources,
            is_whole=self.is_whole,
            facts=traits.facts | (weight.reads if weight else frozenset()),
            statistics=frozenset(statistics),
            means=tuple((each, self.route) for each in every if each.is_mean_one),  # type: ignore[misc]
            route=self.route,
            vocabulary="densities" if is_density else "whole" if self.is_whole or statistics else "sums",
        )

    def num_terms(self, batch: Batch) -> int:
        is_taught = "teacher" in self.sources
        if self.reduction == "token":
            return batch.num_taught if is_taught else batch.num_positions
        if is_taught and batch.has_teacher is None:
            return 0
        return len((batch.sequences[batch.has_teacher] if is_taught else batch.sequences).unique())

    def terms(self, views: TokenViews) -> Terms:
        logprobs, targets = views.logprobs, views.targets
        mask = torch.ones(len(logprobs), dtype=torch.bool, device=logprobs.device)
        is_recorded = "teacher" in self.sources and targets.teacher_full is None
        if is_recorded:
            if targets.has_teacher is None:
                return Terms(logprobs.new_zeros(len(logprobs)), ~mask)
            mask = targets.has_teacher
        traits = self.divergence.traits
        with_labels = traits.needs_target and "labels" in self.target.views
        seen = views_of(logprobs, _read(targets, self.sources), with_labels=with_labels, needs_whole=self.is_whole)
        seen = seen if self.temperature == 1.0 else seen.softened(self.temperature)
        target = self.target(seen) if traits.needs_target else seen.student.detach()
        loss = self.divergence(target, seen.student, drawn_of(seen, targets, traits))
        loss = weigh(self, self.temperature**2 * loss, targets.stats, targets.tokens)
        if self.reduction == "sequence":  # last: a clip bounds the loss of a token as it is
            if targets.stats is None:
                raise ValueError("the mean of each sequence needs to know the sequences of the tokens")
            loss = loss * targets.stats.sequence_shares(of_recorded=is_recorded)[targets.tokens]
        return Terms(loss, mask)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        """Return it with every sequence alike; toward a source that stays where its own moves, or else the labels' loss."""
        if self.requires.facts & {"student_draws", "rewards"}:
            return None
        if not self.sources & set(moving):
            return replace(self, sample_weight=None)
        fixed: list[ViewName] = [name for name in STAYING if name in self.sources and name not in moving]
        if fixed:
            target = Identity(of=fixed[0])
            return Distil(divergence=ForwardKL(), target=target, route=self.route, reduction=self.reduction)
        if self.route == "all" and self.reduction == "token":
            return NextToken()
        labels = Identity(of="labels")
        return Distil(divergence=CrossEntropy(), target=labels, route=self.route, reduction=self.reduction)

    @property
    def _weighs_by_teacher(self) -> bool:
        return any("teacher_entropy" in weight.needs for weight in self.token_weights)


def weigh(objective: Distil, loss: Float[Tensor, "N"], stats: TokenStats | None, tokens: slice) -> Float[Tensor, "N"]:
    """Return the losses times token weights, sample weight and route. Raises ValueError where a weight has nothing to look at."""
    if not objective.token_weights and objective.sample_weight is None and objective.route == "all":
        return loss
    if stats is None:
        raise ValueError("weights and routes need to know the sequences of the tokens")
    for weight in objective.token_weights:
        loss = weight(loss, stats, tokens)
        if weight.is_mean_one:
            loss = loss / _mean(stats, weight, objective.route)
    if objective.sample_weight is not None:
        loss = loss * stats.of_samples(sample_weights(objective, stats))[tokens]
    routed = [float(is_routed(sample, objective.route)) for sample in stats.samples]
    return loss * stats.of_samples(routed)[tokens]


def sample_weights(objective: Distil, stats: TokenStats) -> list[float]:
    """Return the weight of each sequence, divided by the step's mean where it is to have mean one."""
    weight = objective.sample_weight
    assert weight is not None, "asked for by weigh"
    losses: list[float] = []
    if weight.needs_loss:
        assert stats.own_logprobs is not None, "asked for in `statistics`"
        losses = (-stats.sequence_means(stats.own_logprobs)).tolist()
    values = weight(stats.samples, losses)
    if not weight.is_mean_one:
        return values
    mean = _mean(stats, weight, objective.route)
    return [value / mean for value in values]


def drawn_of(views: Views, targets: Targets, traits: Traits) -> Drawn:
    """Return the drawn tokens, with the policy that drew them and their advantage where the loss reads those."""
    stats = targets.stats
    if not (traits.needs_old or traits.needs_reward):
        return Drawn(views.next_outcomes)
    if stats is None:
        raise ValueError(
            "a policy loss needs rollouts of the student: the log-probabilities its tokens were drawn with"
        )
    old = stats.old_logprobs[targets.tokens] if traits.needs_old else None
    advantages = stats.of_samples([sample.advantage for sample in stats.samples])[targets.tokens]
    return Drawn(views.next_outcomes, old, advantages)


def _read(targets: Targets, sources: frozenset[ViewName]) -> Targets:
    """Return the targets without a recorded teacher that is not read: other sources then keep their whole distributions."""
    if "teacher" in sources:
        return targets
    return Targets(
        targets.next_ids,
        past_full=targets.past_full,
        anchor_full=targets.anchor_full,
        stats=targets.stats,
        tokens=targets.tokens,
    )


def _mean(stats: TokenStats, weight: object, route: Route) -> float:
    assert (weight, route) in stats.means, "the loop takes the mean over the step before its first loss"
    # nothing routed, or a kernel that is zero everywhere: what is divided is zero too
    return stats.means[weight, route] or 1.0


def check_support(divergence: Divergence, target: TargetOp) -> None:
    """Raise ValueError when the divergence is infinite because the target gives all mass to one token."""
    traits, share = divergence.traits, getattr(target, "share", None)
    is_label = set(target.views) == {"labels"}
    if "labels" in target.views and share is not None:
        is_label = is_label or share == (1.0 if target.views[0] == "labels" else 0.0)
    if traits.needs_target and traits.needs_support and is_label:
        raise ValueError(
            f"{type(divergence).__name__} is infinite toward labels, which give one token all mass; use forward_kl, or mix the labels"
        )
