"""Keep an output head on torch's fast path. Rows of a slice under a frozen weight are multiplied one by one, a hundred times slower."""

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
