"""One objective made of plugs: divergence, target, token weights, sample weight, route.

    loss of token t of sequence i  =  s_i * w_it * D(target_it, student_it)

The reduction sums it over the routed tokens and divides once: by the tokens of the step, so that a long answer weighs more, or, as some
papers have it, after the mean of each sequence by their number. A method of the literature is a choice of plugs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attar.compressors.distill.losses.divergences.hidden import HiddenLoss
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise, group_sums
from attar.compressors.distill.losses.targets.target_ops import Identity, TargetOp
from attar.compressors.distill.losses.token_stats import ListwiseTerms, TokenStats
from attar.compressors.distill.losses.traits import Divergence, Drawn, Traits
from attar.compressors.distill.losses.views import Targets, ViewName, Views, views_of
from attar.compressors.distill.losses.weights.sample_weights import Route, SampleWeight, is_routed
from attar.compressors.distill.losses.weights.token_weights import Statistic, TokenWeight

# sum_it l_it / sum_i T_i over the tokens of a step, or 1/N sum_i (1/T_i) sum_t l_it over its N sequences of T_i tokens.
Mean = Literal["token", "sequence"]


@dataclass(frozen=True, kw_only=True)
class Distil:
    """Pull the student toward a target by a divergence, token by token. Everything but the student is without gradient."""

    divergence: Divergence
    target: TargetOp = field(default_factory=Identity)
    token_weights: tuple[TokenWeight, ...] = ()
    sample_weight: SampleWeight | None = None
    route: Route = "all"
    reduction: Mean = "token"

    @property
    def views(self) -> frozenset[ViewName]:
        """The parties that it reads, the teacher included where a token weight looks at it."""
        read = set(self.target.views) if self.divergence.traits.needs_target else set()
        if any("teacher_entropy" in weight.needs for weight in self.token_weights):
            read.add("teacher")
        return frozenset(read)

    @property
    def uses_teacher(self) -> bool:
        """True when it speaks only about tokens that have a teacher."""
        return "teacher" in self.views

    @property
    def needs_whole(self) -> bool:
        """True when candidates with a rest do not do."""
        traits = self.divergence.traits
        is_weighed = any("teacher_entropy" in weight.needs for weight in self.token_weights)
        return is_weighed or traits.needs_whole or (traits.needs_target and self.target.needs_whole)

    @property
    def statistics(self) -> frozenset[Statistic]:
        """What has to be known of the whole batch before the loss of its first token."""
        found: set[Statistic] = {name for weight in self.token_weights for name in weight.needs}
        if self.sample_weight is not None and self.sample_weight.needs_loss:
            found.add("own_logprobs")
        return frozenset(found)

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        speaks = torch.ones(len(logprobs), dtype=torch.bool, device=logprobs.device)
        if self.uses_teacher and targets.teacher_full is None:
            if targets.has_teacher is None:
                return logprobs.new_zeros(len(logprobs)), ~speaks
            speaks = targets.has_teacher
        traits = self.divergence.traits
        with_labels = traits.needs_target and "labels" in self.target.views
        views = views_of(logprobs, _heard(targets, self.views), with_labels=with_labels, needs_whole=self.needs_whole)
        target = self.target(views) if traits.needs_target else views.student.detach()
        loss = self.divergence(target, views.student, drawn_of(views, targets, traits))
        loss = weigh(self, loss, targets.stats, targets.tokens) * speaks
        if self.reduction == "sequence":  # last: a clip bounds the loss of a token as it is
            if targets.stats is None:
                raise ValueError("the mean of each sequence needs to know the sequences of the tokens")
            is_recorded = self.uses_teacher and targets.teacher_full is None
            loss = loss * targets.stats.sequence_shares(of_recorded=is_recorded)[targets.tokens]
        return loss, speaks


@dataclass(frozen=True, kw_only=True)
class ListwiseDistil:
    """A loss over the sequences of each prompt. It counts groups: its tokens are the first of each."""

    divergence: AnchoredListwise
    target: TargetOp = field(default_factory=lambda: Identity(of="anchor"))

    @property
    def views(self) -> frozenset[ViewName]:
        """The parties that it reads."""
        return frozenset(self.target.views) if self.divergence.traits.needs_target else frozenset()

    @property
    def uses_teacher(self) -> bool:
        """Recorded candidates never do: it needs the log-probability of every drawn token."""
        return False

    @property
    def statistics(self) -> frozenset[Statistic]:
        """The sums of log-probabilities, before any gradient is taken."""
        return frozenset({"own_logprobs"})

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        assert targets.stats is not None, "asked for in `statistics`"
        terms = targets.stats.listwise[self]
        own = logprobs.gather(-1, targets.next_ids[:, None]).squeeze(-1)
        slope = terms.slopes[targets.tokens] * own
        # the value of the group at its first token, and its exact gradient at every one
        return slope - slope.detach() + terms.values[targets.tokens], terms.is_first[targets.tokens]


@dataclass(frozen=True, kw_only=True)
class HiddenDistil:
    """Pull the student's hidden states toward a live teacher's. It has no target: states are no distributions."""

    divergence: HiddenLoss

    @property
    def views(self) -> frozenset[ViewName]:
        """The teacher."""
        return frozenset({"teacher"})

    @property
    def uses_teacher(self) -> bool:
        """True: it speaks where there is a live teacher, which is everywhere or nowhere."""
        return True

    @property
    def needs_whole(self) -> bool:
        """Candidates say nothing about hidden states."""
        return True

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        raise AssertionError("the reduction gives it hidden states, not distributions")


def listwise_terms(objective: ListwiseDistil, stats: TokenStats, anchor: Float[Tensor, "N"] | None) -> ListwiseTerms:
    """Return each group's loss and its slope in every token's log-probability.

    `anchor`: log-probabilities that the ratios are to; None: those of the policy that drew the tokens.

    Raises ValueError when a sequence belongs to no group or a group is a single sequence.
    """
    assert stats.own_logprobs is not None, "asked for in `statistics`"
    anchor = stats.old_logprobs if anchor is None else anchor
    groups = [one.group for one in stats.samples]
    rewards = torch.tensor([one.reward for one in stats.samples], device=anchor.device)
    # in the sequences' sums the loss is a small function: its slope is taken here, the sums' own gradient in the chunks
    ratios = group_sums(stats.own_logprobs - anchor, stats.sequences, len(groups)).requires_grad_()
    values = torch.zeros(len(groups), device=anchor.device)
    for group in dict.fromkeys(groups):
        members = [index for index, one in enumerate(groups) if one == group]
        if group < 0 or len(members) < 2:
            raise ValueError("a listwise loss compares several sequences of a prompt: set num_samples to 2 or more")
        with torch.enable_grad():
            loss = objective.divergence.group_loss(ratios[members], objective.divergence.preference(rewards[members]))
            loss.backward()
        values[members[0]] = loss.detach()
    assert ratios.grad is not None, "every sequence is in a group"
    is_first_sequence = torch.tensor([group not in groups[:index] for index, group in enumerate(groups)])
    starts = torch.cat([torch.ones(1, dtype=torch.bool, device=anchor.device), stats.sequences.diff() != 0])
    is_first = starts & is_first_sequence.to(anchor.device)[stats.sequences]
    return ListwiseTerms(ratios.grad[stats.sequences], values[stats.sequences] * is_first, is_first)


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
    routed = [float(is_routed(one, objective.route)) for one in stats.samples]
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
    advantages = stats.of_samples([one.advantage for one in stats.samples])[targets.tokens]
    return Drawn(views.next_outcomes, old, advantages)


def _heard(targets: Targets, views: frozenset[ViewName]) -> Targets:
    """Leave out a recorded teacher that nobody reads: the others then keep their whole distributions."""
    if "teacher" in views:
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


def projections_read(objectives: Iterable[object]) -> tuple[str, ...]:
    """Return the projections of the last block that losses between hidden states read."""
    found = [name for one in objectives if isinstance(one, HiddenDistil) for name in one.divergence.reads]
    return tuple(dict.fromkeys(found))
