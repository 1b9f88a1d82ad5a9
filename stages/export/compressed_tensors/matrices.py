"""Which of a model's matrices a scheme packs, and which stay in float and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from attar.compressors.models.blocks import decoder_blocks
from attar.stages.export.formats.schemes import SCHEMES, Scheme, SchemeName

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP_SIZES = (128, 64, 32)
EXCLUDED = "excluded"


@dataclass(frozen=True)
class MatrixChoice:
    """Which matrices of the blocks are packed. `left`: those that stay in float, with the reason. Group size None: a scale a row."""

    names: tuple[str, ...]
    left: dict[str, str]
    group_size: int | None
    float_fraction: float


def choose_matrices(
    model: PreTrainedModel, name: SchemeName, group_size: int | None, exclude: Sequence[str], max_float_fraction: float
) -> MatrixChoice:
    """Return which matrices of the blocks a scheme packs, and what stays in float. The model needs no numbers.

    Raises ValueError where more of the blocks' weights would stay in float than `max_float_fraction`.
    """
    scheme = SCHEMES[name]
    linears = _linears(model)
    num_weights = sum(
        parameter.numel() for block in decoder_blocks(model) for parameter in block.parameters() if parameter.ndim > 1
    )
    excluded = {key for key in linears if any(key.endswith(end) for end in exclude)}
    if unknown := [end for end in exclude if not any(key.endswith(end) for key in linears)]:
        raise ValueError(
            f"exclude has {unknown[0]!r}, which no matrix of the blocks ends with; they are like {next(iter(linears), 'none')}"
        )
    shapes = {key: tuple(linear.weight.shape) for key, linear in linears.items()}
    size = (
        _group_size([shape[1] for key, shape in shapes.items() if key not in excluded], group_size)
        if scheme.is_grouped
        else None
    )
    left = {key: _reason(shape, scheme, size) for key, shape in shapes.items()} | dict.fromkeys(excluded, EXCLUDED)
    left = {key: reason for key, reason in left.items() if reason}
    names = tuple(key for key in shapes if key not in left)
    num_packed = sum(shapes[key][0] * shapes[key][1] for key in names)
    num_excluded = sum(shapes[key][0] * shapes[key][1] for key in excluded)
    fraction = 1 - (num_packed + num_excluded) / num_weights
    if not names or fraction > max_float_fraction:
        raise ValueError(_refusal(name, fraction, max_float_fraction, left, num_linears=len(linears)))
    return MatrixChoice(names, left, size, 1 - num_packed / num_weights)


def _linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    inside = {module for block in decoder_blocks(model) for module in block.modules()}
    return {name: module for name, module in model.named_modules() if module in inside and type(module) is nn.Linear}


def _group_size(widths: Sequence[int], wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    sizes = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    return sizes[0] if sizes else GROUP_SIZES[-1]


def _reason(shape: tuple[int, ...], scheme: Scheme, group_size: int | None) -> str:
    """Return why a matrix stays in float; empty: it does not."""
    if group_size is not None and shape[1] % group_size:
        return f"its width {shape[1]} is no multiple of the group size {group_size}"
    if any(side % scheme.multiple for side in shape):
        return f"its shape {shape[0]} x {shape[1]} is not in multiples of {scheme.multiple}"
    return ""


def _refusal(name: str, fraction: float, limit: float, left: dict[str, str], *, num_linears: int) -> str:
    if not num_linears:
        return f"scheme is {name!r}, but the blocks hold no plain matrices (nn.Linear); fused experts and GPT-2's are not packed"
    reasons = {reason: key for key, reason in left.items() if reason != EXCLUDED}
    why = "; ".join(f"{key}: {reason}" for reason, key in [*reasons.items()][:2]) or "the rest are no plain matrices"
    return f"scheme is {name!r}, but {fraction:.0%} of the blocks' weights would stay in float ({why}); accepted: max_float_fraction {limit:g}"
