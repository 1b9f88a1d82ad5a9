"""Keep a model's products on torch's fast paths on a CPU. A head's rows are one product; weights that stay are laid out once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.models.product_attention import attend_by_products

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def take_fast_paths(model: PreTrainedModel, dtype: torch.dtype | str) -> None:
    """Let a loaded model on a CPU compute where torch is fast. Told to compute in bfloat16, it attends by whole products too."""
    if dtype in (torch.bfloat16, "bfloat16"):
        attend_by_products(model)
    multiply_rows_at_once(model)


# Laid out weights are a second copy: of a larger model it would cost more memory than the time is worth.
MAX_LAID_OUT_BYTES = 2 * 2**30
# Rows of a product that the layout is made for: a batch with its drafts. Other numbers of rows are right too.
NUM_ROWS = 128


def lay_out_weights(model: PreTrainedModel) -> None:
    """Let a float32 model on a CPU multiply by a copy of its weights in oneDNN's layout. They must stay as they are.

    Otherwise every product lays the weight out again: a fifth of a batch's time and more. Small rounding differences are all that changes.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    linears = [
        linear for linear in linears if (linear.weight.device.type, linear.weight.dtype) == ("cpu", torch.float32)
    ]
    num_bytes = sum(4 * linear.weight.numel() for linear in linears)
    if num_bytes > MAX_LAID_OUT_BYTES or not torch.backends.mkldnn.is_available():
        return
    for linear in linears:
        with torch.no_grad():
            weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight, NUM_ROWS)
        vars(linear)["forward"] = partial(_laid_out_product, weight, linear.bias)


def _laid_out_product(weight: Tensor, bias: Tensor | None, states: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def multiply_rows_at_once(model: PreTrainedModel) -> None:
    """Let a model's head read the rows that `logits_to_keep` leaves as one matrix.

    They are a slice of the states. With a frozen bfloat16 weight on a CPU torch 2.13 makes of it a product a row, in a plain loop:
    findings/torch_frozen_weight_slows_rows_of_a_slice.sh.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or (head.weight.device.type, head.weight.dtype) != ("cpu", torch.bfloat16):
        return
    if "forward" not in vars(head):
        vars(head)["forward"] = partial(_product, head)


def _product(linear: nn.Linear, states: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
    rows = states.reshape(-1, states.shape[-1])
    return nn.functional.linear(rows, linear.weight, linear.bias).reshape(*states.shape[:-1], -1)
