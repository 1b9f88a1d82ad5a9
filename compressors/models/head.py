"""The output head by itself. Logits of chosen hidden states, so that no B x T x V tensor ever exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Rows of a half-precision head that lie in memory in float32 at once: 128 MB at 4,096 channels.
ENTRIES_AT_ONCE = 8192


@dataclass(frozen=True)
class Entries:
    """K entries of the vocabulary, ascending. `shift`: log of how many entries each stands for, to be added to its logit."""

    ids: Int[Tensor, "K"]
    shift: Float[Tensor, "K"]

    def indices_of(self, ids: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Return where these are among the entries, all of which hold them."""
        return torch.searchsorted(self.ids, ids)


@dataclass(frozen=True)
class OutputHead:
    """logits = softcap(scale * (h W' + b)) + shift. All that the families do between the last hidden state and the logits.

    `shift` is of a head over part of the vocabulary; see `over`.
    """

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float = 0.0
    shift: Float[Tensor, "V"] | None = None

    def over(self, entries: Entries) -> OutputHead:
        """Return the head over these entries alone, each as heavy as those that it stands for."""
        bias = None if self.bias is None else self.bias[entries.ids]
        return replace(self, weight=self.weight[entries.ids], bias=bias, shift=entries.shift)

    def logits(
        self, hidden: Float[Tensor, "N D"], weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Float[Tensor, "N V"]:
        """Return float32 logits. `weight` and `bias` stand in for the head's own where a gradient is taken in them.

        float32 from the product on: in bf16, logits near 20 are 0.125 apart, and every loss loses its third digit.
        """
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        logits: Tensor = _Products.apply(hidden, weight, bias)  # type: ignore[assignment]
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits if self.shift is None else logits + self.shift


class _Products(torch.autograd.Function):
    """hidden W' + bias, multiplied and summed in float32 whatever the dtype of either and whatever autocast says.

    A half-precision weight is widened some entries of the vocabulary at a time, and again in the backward pass: never all of it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            wide = hidden.float()
            if weight.dtype == torch.float32:
                return nn.functional.linear(wide, weight, None if bias is None else bias.float())
            products = wide.new_empty(len(wide), len(weight))
            for part, into in zip(weight.split(ENTRIES_AT_ONCE), products.split(ENTRIES_AT_ONCE, dim=1), strict=True):
                into.copy_(wide @ part.float().T)
            return products if bias is None else products.add_(bias.float())

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        of_hidden = of_weight = of_bias = None
        with torch.autocast(hidden.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                parts = zip(weight.split(ENTRIES_AT_ONCE), outer.split(ENTRIES_AT_ONCE, dim=1), strict=True)
                of_hidden = torch.zeros_like(hidden, dtype=torch.float32)
                for part, slope in parts:
                    of_hidden.addmm_(slope, part.float())
                of_hidden = of_hidden.to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                of_weight = (outer.T @ hidden.float()).to(weight.dtype)
            if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
                of_bias = outer.sum(dim=0).to(ctx.bias_dtype)
        return of_hidden, of_weight, of_bias


def output_head(model: PreTrainedModel) -> OutputHead:
    """Return the head of a causal model. Raises ValueError for a model without a single output matrix."""
    matrix = model.get_output_embeddings()
    if not isinstance(matrix, nn.Linear):
        raise ValueError(f"{type(model).__name__}: no output matrix found; not a plain causal model")
    config = model.config
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    return OutputHead(
        matrix.weight, matrix.bias, scale / divisor, float(getattr(config, "final_logit_softcapping", None) or 0.0)
    )


@torch.no_grad()
def check_head(model: PreTrainedModel, head: OutputHead) -> None:
    """Raise ValueError unless the head on the last hidden states gives the model's own logits. Some family may do more in between."""
    ids = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    expected = model(input_ids=ids, use_cache=False).logits[0].float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    error, largest = float((head.logits(hidden) - expected).abs().max()), float(expected.abs().max().clamp(min=1e-6))
    if not error <= 2e-2 * largest:  # bf16 models round their logits; another formula is off by far more
        raise ValueError(f"{type(model).__name__}: its logits are not a plain output head's; cannot be fine-tuned here")
