"""What a closed-form patch leaves undone: a window's score when it is to be patched after its removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.prune.depth.patch import PatchFit, feed_forward_outputs
from attar.compressors.prune.depth.scan import Scores, last_logits_only, residual_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PatchResidual:
    """mean over tokens of ||h + x D - h'||^2 / ||h'||^2. H, h' the states before and after the window, D the fitted patch.

    0: the patch does all that the window did; 1: as far off as an empty state. D is the patch as `prune` fits it
    (https://arxiv.org/abs/2505.02819). The error of each token is set in proportion to the state that the following block gets,
    since that block divides by its norm. The plain share of the squared change that is left (`Patch.residual_fraction`) misleads:
    a few tokens with massive activations make up nearly all of it. Lower is better.
    """

    ridge: float = 1e-2  # weight of the map's size in its fit, relative to the mean squared input
    is_weighted: bool = False  # whether the fit divides each token's squared error by ||h'||

    def start(self, num_blocks: int, sizes: Sequence[int]) -> PatchResidualFit:
        """Return the sums for every patchable window of the given sizes of a model of `num_blocks` blocks."""
        windows = {size: range(1, num_blocks - size + 1) for size in sizes if size < num_blocks}
        fits = {size: _SizeFit(size, firsts, self.is_weighted) for size, firsts in windows.items()}
        return PatchResidualFit(self.ridge, fits)


@dataclass
class PatchResidualFit:
    """Normal equations of all windows of some sizes from one pass. Weighed as the patch weighs, and as the score does. O(D^2) a window."""

    ridge: float
    fits: dict[int, _SizeFit]
    num_tokens: int = 0

    @torch.no_grad()
    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its tokens, the first ones included: without them some windows explode."""
        keep = attention_mask.bool()
        firsts = sorted({first for fit in self.fits.values() for first in fit.firsts})
        if not firsts:
            return
        with residual_stream(model) as states, feed_forward_outputs(model, firsts) as outputs:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        for size, fit in self.fits.items():
            for first in fit.firsts:
                output = outputs[first - 1].reshape(*keep.shape, -1)  # OPT flattens batch and tokens there
                fit.add(first, output[keep].float(), states[first][keep].float(), states[first + size][keep].float())
        self.num_tokens += int(keep.sum())

    def scores(self) -> Scores:
        """Return `{(first block, number of blocks): score}`; windows at block 0 cannot be patched and have none."""
        return {
            (first, size): fit.residual(first, self.ridge) / self.num_tokens
            for size, fit in self.fits.items()
            for first in fit.firsts
        }


@dataclass
class _SizeFit:
    """The sums of the windows of one size."""

    size: int
    firsts: range
    is_weighted: bool
    patch: PatchFit = field(init=False)
    relative: PatchFit = field(init=False)

    def __post_init__(self) -> None:
        self.patch = PatchFit(self.size, self.firsts, self.is_weighted)
        self.relative = PatchFit(self.size, self.firsts)

    def add(
        self, first: int, output: Float[Tensor, "N D"], before: Float[Tensor, "N D"], after: Float[Tensor, "N D"]
    ) -> None:
        self.patch.add_states(first, output, before, after)
        weight = after.norm(dim=-1, keepdim=True).clamp(min=1e-12).reciprocal()
        self.relative.add(first, output * weight, (after - before) * weight)

    def residual(self, first: int, ridge: float) -> float:
        """Return the sum over tokens of the patch's squared error relative to the following block's input."""
        return self.relative.squared_error(first, self.patch.solve(first, ridge).delta)
