"""The objective over the sequences of each prompt: their log-ratios are compared, and the slope goes to every token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise, group_sums
from attar.compressors.distill.losses.objective import Requires, SlopeSource, Terms
from attar.compressors.distill.losses.targets.target_ops import Identity, TargetOp
from attar.compressors.distill.losses.token_stats import ListwiseTerms, TokenStats
from attar.compressors.distill.losses.views import TokenViews, ViewName


@dataclass(frozen=True, kw_only=True)
class ListwiseDistil:
    """A loss over the sequences of each prompt. It counts groups: its value stands at the first token of each."""

    divergence: AnchoredListwise
    target: TargetOp = field(default_factory=lambda: Identity(of="anchor"))

    @property
    def anchor(self) -> TargetOp | None:
        """The target that ratios are to; None: the policy that drew the tokens."""
        return self.target if self.divergence.traits.needs_target else None

    @property
    def requires(self) -> Requires:
        return Requires(
            sources=frozenset() if self.anchor is None else frozenset(self.anchor.views),
            is_whole=True,
            facts=self.divergence.traits.facts,
            statistics=frozenset({"own_logprobs"}),  # their sums, before any gradient is taken
            slopes=self,
        )

    def num_terms(self, batch: Batch) -> int:
        return len({facts.group for facts in batch.facts})

    def terms(self, views: TokenViews) -> Terms:
        return sloped_terms(self, views)

    def held_out(self, moving: Collection[ViewName]) -> None:
        """Return nothing: given text has no reward."""

    def slopes(self, stats: TokenStats, anchor: Float[Tensor, "N"] | None) -> ListwiseTerms:
        """Return each group's loss and its slope in every token's log-probability.

        Raises ValueError when a sequence belongs to no group or a group is a single sequence.
        """
        assert stats.own_logprobs is not None, "asked for in `statistics`"
        anchor = stats.old_logprobs if anchor is None else anchor
        groups = [sample.group for sample in stats.samples]
        rewards = torch.tensor([sample.reward for sample in stats.samples], device=anchor.device)
        # in the sequences' sums the loss is a small function: its slope is taken here, the sums' own gradient in the chunks
        ratios = group_sums(stats.own_logprobs - anchor, stats.sequences, len(groups)).requires_grad_()
        values = torch.zeros(len(groups), device=anchor.device)
        for group in dict.fromkeys(groups):
            members = [index for index, other_group in enumerate(groups) if other_group == group]
            if group < 0 or len(members) < 2:
                raise ValueError("a listwise loss compares several sequences of a prompt: set num_samples to 2 or more")
            with torch.enable_grad():
                loss = self.divergence.group_loss(ratios[members], self.divergence.preference(rewards[members]))
                loss.backward()
            values[members[0]] = loss.detach()
        assert ratios.grad is not None, "every sequence is in a group"
        is_first_sequence = torch.tensor([group not in groups[:index] for index, group in enumerate(groups)])
        starts = torch.cat([torch.ones(1, dtype=torch.bool, device=anchor.device), stats.sequences.diff() != 0])
        is_first = starts & is_first_sequence.to(anchor.device)[stats.sequences]
        return ListwiseTerms(ratios.grad[stats.sequences], values[stats.sequences] * is_first, is_first)


def sloped_terms(source: SlopeSource, views: TokenViews) -> Terms:
    """Return terms with the value and the gradient of a loss over several tokens at once, wherever chunks are cut.

    The value stands at one token of each, its exact slope is carried by every one.
    """
    targets = views.targets
    assert targets.stats is not None, "asked for in `statistics`"
    known = targets.stats.listwise[source]
    own = views.logprobs.gather(-1, targets.next_ids[:, None]).squeeze(-1)
    return Terms(
        known.values[targets.tokens], known.is_first[targets.tokens], carried=known.slopes[targets.tokens] * own
    )
