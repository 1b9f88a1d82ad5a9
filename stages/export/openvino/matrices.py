"""Round a model's matrices as the OpenVINO form stores them. In torch, so that the graph is traced from what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The largest code. -128 has no mirror image.
LARGEST_CODE = 127


@torch.no_grad()
def round_matrices(model: PreTrainedModel, weights: str) -> int:
    """Round every matrix in place to `weights`, f16 or int8 with a scale an output. Return how many there are, a tied one once.

    Raises ValueError for a number that f16 does not hold.
    """
    rounded: set[int] = set()
    for name, module in model.named_modules():
        weight, is_turned = _matrix(module)
        if weight is None or id(weight) in rounded:
            continue
        if weights == "f16":
            halves = weight.half()
            if not bool(torch.isfinite(halves).all()):
                raise ValueError(f"format.weights is 'f16', in which {name} is not finite; accepted: f32, int8")
            weight.copy_(halves)
        else:
            rows = weight.T if is_turned else weight
            codes, scales = integer_rows(rows)
            rows.copy_(codes * scales)
        rounded.add(id(weight))
    return len(rounded)


def integer_rows(rows: Float[Tensor, "N K"]) -> tuple[Int8[Tensor, "N K"], Float[Tensor, "N 1"]]:
    """Return (codes, scales) of whole numbers in [-127, 127] with a scale a row. What was rounded so has the same codes again."""
    scales = rows.abs().amax(dim=1, keepdim=True) / LARGEST_CODE
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return torch.round(rows / scales).clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8), scales


def _matrix(module: nn.Module) -> tuple[nn.Parameter | None, bool]:
    """Return the matrix of a module, and whether its outputs are columns, as GPT-2's are."""
    weight = getattr(module, "weight", None)
    is_turned = type(module).__name__ == "Conv1D"
    if weight is None or weight.ndim != 2 or not (is_turned or isinstance(module, nn.Linear | nn.Embedding)):
        return None, False
    return weight, is_turned
