"""Where a block can be made narrower. Which rows and columns of which matrices belong to one feed-forward channel or KV group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.exits import ATTENTION_EXITS, ATTENTION_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attar.compressors.models.exits import Matrix

# (matrices that make the channels, how many of them one matrix holds, the matrix that reads them), by the names families give them.
FEED_FORWARD_FORMS: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("mlp.gate_proj", "mlp.up_proj"), 1, "mlp.down_proj"),
    (("mlp.gate_up_proj",), 2, "mlp.down_proj"),
    (("mlp.up_proj",), 1, "mlp.down_proj"),
    (("mlp.c_fc",), 1, "mlp.c_proj"),
    (("mlp.dense_h_to_4h",), 1, "mlp.dense_4h_to_h"),
    (("mlp.fc1",), 1, "mlp.fc2"),
    (("fc1",), 1, "fc2"),
)


@dataclass(frozen=True)
class Rows:
    """Outputs of `matrix` that make the units: unit u owns `width` of them, from `start + u * width` on."""

    matrix: Matrix
    start: int
    width: int

    def of(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the output indices of some units, in order."""
        return self.start + _spread(units, self.width)


@dataclass(frozen=True)
class Part:
    """A place in a block where units can be taken out. `entries` make them, `exit` reads `unit_width` inputs of each."""

    num_units: int
    entries: tuple[Rows, ...]
    exit: Matrix
    unit_width: int
    block: nn.Module

    def exit_columns(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the inputs of `exit` that some units feed."""
        return _spread(units, self.unit_width)

    @property
    def unit_parameters(self) -> int:
        """Parameters that one unit costs: its rows with their biases, and its columns."""
        rows = sum(rows.width * (num_inputs(rows.matrix) + (rows.matrix.bias is not None)) for rows in self.entries)
        return rows + self.unit_width * num_outputs(self.exit)


def feed_forward_parts(model: PreTrainedModel) -> list[Part]:
    """Return the channels of every block. Raises ValueError for families whose channels are not free to go."""
    return _same_width([_feed_forward(block, _family(model)) for block in decoder_blocks(model)], model, "channels")


def attention_parts(model: PreTrainedModel) -> list[Part]:
    """Return the KV groups (key and value heads with the query heads that use them) of every block.

    Raises ValueError, with the reason, for families whose heads are not free to go.
    """
    num_heads = getattr(model.config, "num_attention_heads", None)
    if not isinstance(num_heads, int):
        raise ValueError(f"{_family(model)}: its config has no one num_attention_heads; its heads cannot be removed")
    num_groups = getattr(model.config, "num_key_value_heads", None) or num_heads
    parts = [_attention(block, _family(model), num_heads, num_groups) for block in decoder_blocks(model)]
    return _same_width(parts, model, "KV groups")


def num_inputs(matrix: Matrix) -> int:
    """Return how many numbers a matrix reads."""
    return matrix.in_features if isinstance(matrix, nn.Linear) else matrix.weight.shape[0]


def num_outputs(matrix: Matrix) -> int:
    """Return how many numbers a matrix makes."""
    return matrix.out_features if isinstance(matrix, nn.Linear) else matrix.weight.shape[1]


def _feed_forward(block: nn.Module, family: str) -> Part:
    modules = dict(block.named_modules())
    forms = [form for form in FEED_FORWARD_FORMS if all(name in modules for name in (*form[0], form[2]))]
    if not forms:
        raise ValueError(f"{family}: no feed-forward part of a known form (experts?); its channels cannot be removed")
    entries, num_fused, exit_name = forms[0]
    matrices = [_matrix(modules[name], name, family) for name in (*entries, exit_name)]
    known = {id(parameter) for matrix in matrices for parameter in matrix.parameters()}
    feed_forward = modules["mlp"] if "mlp" in modules else nn.ModuleList(matrices)
    _refuse_others(feed_forward, known, f"{family}: mlp", "its channels cannot be removed")
    num_channels = num_inputs(matrices[-1])
    rows = [Rows(matrix, num * num_channels, 1) for matrix in matrices[:-1] for num in range(num_fused)]
    if any(num_outputs(matrix) != num_fused * num_channels for matrix in matrices[:-1]):
        raise ValueError(f"{family}: {entries[0]} and {exit_name} differ in size; its channels cannot be removed")
    return Part(num_channels, tuple(rows), matrices[-1], 1, block)


def _attention(block: nn.Module, family: str, num_heads: int, num_groups: int) -> Part:
    refusal = "its heads cannot be removed"
    attentions = [part for part in (getattr(block, name, None) for name in ATTENTION_NAMES) if part is not None]
    modules = dict(attentions[0].named_children()) if attentions else {}
    exit_name = next((name for name in ATTENTION_EXITS if name in modules), "")
    if (
        "c_attn" in modules
        or "query_key_value" in modules
        or hasattr(attentions[0] if attentions else block, "embed_dim")
    ):
        raise ValueError(f"{family}: its attention is hidden_size wide whatever the number of heads; {refusal}")
    is_fused = "qkv_proj" in modules
    names = ("qkv_proj",) if is_fused else ("q_proj", "k_proj", "v_proj")
    if not exit_name or any(name not in modules for name in names):
        raise ValueError(f"{family}: no attention of a known form; {refusal}")
    matrices = [_matrix(modules[name], name, family) for name in (*names, exit_name)]
    head_dim, ratio = num_inputs(matrices[-1]) // num_heads, num_heads // num_groups
    known = {id(parameter) for matrix in matrices for parameter in matrix.parameters()}
    for name in ("q_norm", "k_norm"):
        for parameter in modules[name].parameters() if name in modules else ():
            if parameter.numel() != head_dim:
                raise ValueError(f"{family}: {name} is taken over all heads, which would change it; {refusal}")
            known.add(id(parameter))
    _refuse_others(attentions[0], known, f"{family}: attention", refusal)
    widths = [ratio * head_dim, head_dim, head_dim]
    starts = [0, num_heads * head_dim, (num_heads + num_groups) * head_dim] if is_fused else [0, 0, 0]
    sources = [matrices[0]] * 3 if is_fused else matrices[:3]
    rows = tuple(Rows(*part) for part in zip(sources, starts, widths, strict=True))
    return Part(num_groups, rows, matrices[-1], ratio * head_dim, block)


def _refuse_others(module: nn.Module, known: set[int], where: str, refusal: str) -> None:
    """Refuse a parameter we do not know (sinks, routers, gates). It may follow the units: better no model than a wrong one."""
    for name, parameter in module.named_parameters():
        if id(parameter) not in known:
            raise ValueError(f"{where} has {name} of shape {tuple(parameter.shape)}, which is not known; {refusal}")


def _same_width(parts: Sequence[Part], model: PreTrainedModel, what: str) -> list[Part]:
    counts = sorted({part.num_units for part in parts})
    if len(counts) > 1:
        raise ValueError(
            f"{_family(model)}: its blocks have {counts[0]} to {counts[-1]} {what}; one number is expected"
        )
    return list(parts)


def _matrix(module: nn.Module, name: str, family: str) -> Matrix:
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(f"{family}: {name} is a {type(module).__name__}, not a plain matrix; it cannot be narrowed")
    return module


def _family(model: PreTrainedModel) -> str:
    return type(model).__name__


def _spread(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
