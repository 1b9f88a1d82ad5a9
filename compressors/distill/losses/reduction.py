"""The one place where hidden states become losses, and losses per token become a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.composite import HiddenDistil
from attar.compressors.distill.losses.objectives import Objective, Targets
from attar.compressors.distill.losses.statistics import measured
from attar.compressors.distill.losses.targets.vocabulary import Entries, VocabularySample
from attar.compressors.distill.losses.weights.coefficients import Clock, CoefficientSchedule
from attar.compressors.models.head import OutputHead

Sums = dict[str, tuple[float, int]]


class Speaker(Protocol):
    """Someone whose log-probabilities of the batch's N tokens are asked for in parts."""

    def logprobs(self, tokens: slice) -> Float[Tensor, "n V"]:
        """Return its log-probabilities of some of the tokens, in nats."""
        ...

    def over(self, entries: Entries) -> Speaker:
        """Return the same one, who speaks about part of the vocabulary."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """The teacher's last hidden states of the same N tokens, and its head: its distribution is computed chunk by chunk."""

    hidden: Float[Tensor, "N D"]
    head: OutputHead
    # projections of the last block, where a loss between hidden states reads them
    projections: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, Tensor]:
        """The last hidden states and the projections, by name."""
        return {"hidden": self.hidden, **self.projections}

    def over(self, entries: Entries) -> LiveTeacher:
        """Return the teacher over part of the vocabulary."""
        return replace(self, head=self.head.over(entries))

    @torch.no_grad()
    def logprobs(self, tokens: slice) -> Float[Tensor, "n V"]:
        """Return its log-probabilities of some of the tokens, in nats, without gradient."""
        return self.head.logits(self.hidden[tokens]).log_softmax(dim=-1)


@dataclass(frozen=True)
class Parties:
    """Who speaks about a batch beside the student: teacher, past self, anchor; None where nobody does."""

    teacher: Speaker | None = None
    past: Speaker | None = None
    anchor: Speaker | None = None

    def over(self, entries: Entries) -> Parties:
        """Return them, each over part of the vocabulary."""
        return Parties(*(None if one is None else one.over(entries) for one in (self.teacher, self.past, self.anchor)))

    def spoken(self, targets: Targets, tokens: slice) -> Targets:
        """Return the targets of some tokens with what each party says of them."""
        said = {
            f"{name}_full": None if speaker is None else speaker.logprobs(tokens)
            for name, speaker in (("teacher", self.teacher), ("past", self.past), ("anchor", self.anchor))
        }
        return replace(targets.cut(tokens), **said)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reduction:
    """Objectives with their weights and how those change, and how many tokens go through the head at once.

    Memory beyond the hidden states is O(tokens_per_chunk x V), whatever the batch, for the loss and for its gradient. `sample`: what
    chooses the part of the vocabulary over which distributions are compared; None: all of it.
    """

    objectives: Mapping[str, Objective]
    weights: Mapping[str, float]
    # float32 logits of so many are 25 MB over 49,152 entries: stays in the caches, and a CPU's allocator uses such a piece again
    tokens_per_chunk: int = 128
    schedules: Mapping[str, tuple[CoefficientSchedule, ...]] = field(default_factory=dict)
    sample: VocabularySample | None = None

    def at(self, clock: Clock) -> Reduction:
        """Return the reduction as it is at a time."""
        if not self.schedules:
            return self
        objectives, weights = dict(self.objectives), dict(self.weights)
        for name, changes in self.schedules.items():
            for change in changes:
                objectives[name], weights[name] = change.at(objectives[name], weights[name], clock)
        return replace(self, objectives=objectives, weights=weights)

    def loss(
        self,
        hidden: Float[Tensor, "N D"],
        head: OutputHead,
        targets: Targets,
        num_tokens: Mapping[str, int],
        teacher: Speaker | None = None,
        past: Speaker | None = None,
        anchor: Speaker | None = None,
        projections: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Sums]:
        """Return (sum_o weight_o * sum_o / num_tokens_o, {objective: (sum over the tokens it speaks about in nats, how many)}).

        `num_tokens` counts the whole optimizer step (all micro-batches, all processes), so that splitting a batch changes nothing.
        Nobody but the student gets a gradient.
        """
        between_states = {name: one for name, one in self.objectives.items() if isinstance(one, HiddenDistil)}
        objectives = {name: one for name, one in self.objectives.items() if name not in between_states}
        own = {"hidden": hidden, **(projections or {})}
        states = hidden_sums(between_states, own, targets, teacher)
        sums: Sums = {name: (float(value.detach()), count) for name, (value, count) in states.items()}
        if not objectives:
            return combine(states, self.weights, num_tokens), sums
        head, targets, parties = self._looked_at(head, targets, Parties(teacher, past, anchor))
        targets = measured(
            objectives,
            targets,
            self.tokens_per_chunk,
            lambda tokens: head.logits(hidden[tokens]).log_softmax(dim=-1),
            lambda tokens: parties.spoken(targets, tokens),
        )

        def chunk_loss(part: Tensor, tokens: slice, weight: Tensor, bias: Tensor | None) -> Tensor:
            logprobs = head.logits(part, weight, bias).log_softmax(dim=-1)
            chunk = summed_losses(objectives, logprobs, parties.spoken(targets, tokens))
            for name, (value, count) in chunk.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + float(value.detach()), before[1] + count)
            return combine(chunk, self.weights, num_tokens)

        total: Any = _Chunked.apply(hidden, head.weight, head.bias, chunk_loss, self.tokens_per_chunk)
        return (total + combine(states, self.weights, num_tokens) if states else total), sums

    def _looked_at(self, head: OutputHead, targets: Targets, parties: Parties) -> tuple[OutputHead, Targets, Parties]:
        """Return head, targets and parties over the sample of the vocabulary, where there is one."""
        if self.sample is None:
            return head, targets, parties
        entries = self.sample.entries(targets.next_ids)
        known = replace(targets, next_ids=entries.places(targets.next_ids))
        return head.over(entries), known, parties.over(entries)


class _Chunked(torch.autograd.Function):
    """Sum a loss over chunks of tokens, taking each chunk's gradient at once, while its logits are still there.

    The gradient in the hidden states is as small as they are, so nothing is computed twice and no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk_loss: Callable[..., Tensor], size: int
    ) -> Tensor:
        needs = ctx.needs_input_grad[:3]
        total = hidden.new_zeros((), dtype=torch.float32)
        gradients = [
            torch.zeros_like(x) if x is not None and need else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        for start in range(0, len(hidden), size):
            tokens = slice(start, start + size)
            with torch.set_grad_enabled(any(needs)):
                leaves = [
                    x if x is None else x.detach().requires_grad_(need)
                    for x, need in zip((hidden[tokens], weight, bias), needs, strict=True)
                ]
                loss = chunk_loss(leaves[0], tokens, *leaves[1:])
            total += loss.detach()
            _add_gradients(
                loss, leaves, [g[tokens] if g is not None and i == 0 else g for i, g in enumerate(gradients)]
            )
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *(None if g is None else g * outer.to(g.dtype) for g in ctx.gradients), None, None


def _add_gradients(loss: Tensor, leaves: list[Tensor | None], into: list[Tensor | None]) -> None:
    wanted = [(leaf, place) for leaf, place in zip(leaves, into, strict=True) if leaf is not None and place is not None]
    if not wanted or not loss.requires_grad:  # no token of the chunk has a teacher, say
        return
    gradients = torch.autograd.grad(loss, [leaf for leaf, _ in wanted])
    for (_, place), gradient in zip(wanted, gradients, strict=True):
        place.add_(gradient)


def summed_losses(
    objectives: Mapping[str, Objective], logprobs: Float[Tensor, "N V"], targets: Targets
) -> dict[str, tuple[Tensor, int]]:
    """Return, for each objective, (sum of its loss over the tokens it speaks about, in nats; how many those are)."""
    sums = {}
    for name, objective in objectives.items():
        per_token, speaks = objective(logprobs, targets)
        # zero where it does not speak, but for a listwise loss: its gradient is at every token, its value at one a group
        sums[name] = (per_token.sum(), int(speaks.sum()))
    return sums


def hidden_sums(
    objectives: Mapping[str, HiddenDistil], own: Mapping[str, Tensor], targets: Targets, teacher: Speaker | None
) -> dict[str, tuple[Tensor, int]]:
    """Return the sums of losses between hidden states: N x D alone, no vocabulary, so nothing is cut into chunks."""
    if not objectives:
        return {}
    if not isinstance(teacher, LiveTeacher) or targets.stats is None:
        raise ValueError("a loss between hidden states needs a live teacher that is one model")
    losses = {name: one.divergence(own, teacher.states, targets.stats.sequences) for name, one in objectives.items()}
    return {name: (loss.sum(), len(loss)) for name, loss in losses.items()}


def combine(
    sums: Mapping[str, tuple[Tensor, int]], weights: Mapping[str, float], num_tokens: Mapping[str, int]
) -> Tensor:
    """Return sum_o weight_o * sum_o / num_tokens_o. An objective without tokens in the step contributes zero."""
    total = None
    for name, (loss_sum, _) in sums.items():
        term = weights[name] * loss_sum / max(num_tokens[name], 1)
        total = term if total is None else total + term
    assert total is not None, "no objectives"
    return total
