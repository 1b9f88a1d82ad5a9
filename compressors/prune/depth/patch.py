"""Training-free repair of a cut: a linear map, fitted in closed form, folded into the block before the removed window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.exits import feed_forward_output, multiply_feed_forward
from attar.compressors.prune.depth.scan import last_logits_only, residual_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Patch:
    """The map for one window. `delta` D x D, to be added to the identity, and how much of the window's work it leaves undone.

    `residual_fraction` in [0, 1]: squared error left, over the squared change that the window makes; lower is better.
    """

    first_block: int
    delta: Float[Tensor, "D D"]
    residual_fraction: float


@dataclass
class PatchFit:
    """Normal equations of the windows of `num_blocks` blocks that begin at `first_blocks`, summed as calibration text streams by.

    With x the feed-forward output of the block before the window and r the change that the window makes to the residual stream,
    minimise ||x D - r||^2 + ridge * mean(x^2) * ||D||^2 in D and fold I + D into that block's last matrix
    (https://arxiv.org/abs/2505.02819). The first token counts: without it the massive activations it carries are left to chance, and
    some windows explode. `is_weighted` divides each token's squared error by the norm of the state after the window, so that tokens
    with massive activations do not outweigh all others together. Memory is O(D^2) a window, whatever the number of tokens.
    """

    num_blocks: int
    first_blocks: Sequence[int]
    is_weighted: bool = False
    num_tokens: int = 0
    _gram: dict[int, Tensor] = field(default_factory=dict)
    _cross: dict[int, Tensor] = field(default_factory=dict)
    _change: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.first_blocks or min(self.first_blocks) < 1:
            raise ValueError("a patch needs a block before the window: the window may not begin at block 0")

    @torch.no_grad()
    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its tokens to the equations."""
        keep = attention_mask.bool()
        with residual_stream(model) as states, feed_forward_outputs(model, self.first_blocks) as outputs:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        for first in self.first_blocks:
            output = outputs[first - 1].reshape(*keep.shape, -1)  # OPT flattens batch and tokens there
            before, after = states[first][keep].float(), states[first + self.num_blocks][keep].float()
            self.add_states(first, output[keep].float(), before, after)
        self.num_tokens += int(keep.sum())

    def add_states(
        self, first: int, output: Float[Tensor, "N D"], before: Float[Tensor, "N D"], after: Float[Tensor, "N D"]
    ) -> None:
        """Add tokens of one window: feed-forward outputs before it, and the states before and after it."""
        if self.is_weighted:
            weight = (
                after.norm(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()
            )  # its square stands before the squared error
            self.add(first, output * weight, (after - before) * weight)
        else:
            self.add(first, output, after - before)

    def add(self, first: int, output: Float[Tensor, "N D"], change: Float[Tensor, "N D"]) -> None:
        """Add tokens of one window: feed-forward outputs before it, and the changes it makes."""
        gram, cross = (output.T @ output).double(), (output.T @ change).double()
        self._gram[first] = self._gram[first] + gram if first in self._gram else gram
        self._cross[first] = self._cross[first] + cross if first in self._cross else cross
        self._change[first] = self._change.get(first, 0.0) + float(change.double().pow(2).sum())

    def solve(self, first: int, ridge: float) -> Patch:
        """Return the patch of one window. `ridge` is relative to the mean squared output: 1e-4 to 1e-2 make little difference."""
        gram, cross = self._gram[first], self._cross[first]
        weight = ridge * gram.diagonal().mean()
        delta = torch.linalg.solve(gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)
        left = self.squared_error(first, delta)
        return Patch(first, delta.float(), left / max(self._change[first], 1e-30))

    def squared_error(self, first: int, delta: Float[Tensor, "D D"]) -> float:
        """Return the squared error of any map for one window. ||x D - r||^2 = ||r||^2 - 2 <D, x'r> + <D, x'x D>, summed over tokens."""
        delta = delta.double()
        products = float((delta * (self._gram[first] @ delta)).sum()) - 2.0 * float((delta * self._cross[first]).sum())
        return self._change[first] + products


def fold_patch(model: PreTrainedModel, patch: Patch) -> None:
    """Multiply the output of the feed-forward part before the window by I + delta. In place, folded in float32."""
    multiply_feed_forward(model, patch.first_block - 1, torch.eye(len(patch.delta)) + patch.delta.cpu())


@contextmanager
def feed_forward_outputs(model: PreTrainedModel, first_blocks: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect what each block before a window adds to the residual stream by its feed-forward part, by block index."""
    outputs: dict[int, Tensor] = {}
    # Granite scales what a block adds; a map on the matrix is scaled along with it
    scale = float(getattr(model.config, "residual_multiplier", 1.0))

    def see(index: int, output: Tensor) -> None:
        outputs[index] = output * scale

    with ExitStack() as stack:
        for index in {first - 1 for first in first_blocks}:
            stack.enter_context(feed_forward_output(model, index, partial(see, index)))
        yield outputs
