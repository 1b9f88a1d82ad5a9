"""Take feed-forward channels and KV groups out of every block, leaving a plain model of the same family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import bring
from attar.compressors.prune.width.layout import (
    ATTENTION_NAMES,
    Part,
    attention_parts,
    feed_forward_parts,
    num_inputs,
)

if TYPE_CHECKING:
    import transformers
    from transformers import PretrainedConfig

    from attar.compressors.models.exits import Matrix

KeptUnits = Sequence[Int[Tensor, "U"]]
# Names of the number of channels in configs; a config may carry more than one.
CHANNEL_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")


@torch.no_grad()
def cut_width(
    model: transformers.PreTrainedModel, *, channels: KeptUnits | None = None, groups: KeptUnits | None = None
) -> None:
    """Keep only the given channels and KV groups, in place. One list of ascending indices a block, the same number in each.

    A model loaded from the result computes what the original computes with the other channels and heads set to zero.
    Raises ValueError when a plain config of the family cannot hold the new sizes.
    """
    counts = [len(kept_units[0]) if kept_units is not None else None for kept_units in (channels, groups)]
    changes = config_changes(model, num_channels=counts[0], num_groups=counts[1])
    for kept_units, find in ((channels, feed_forward_parts), (groups, attention_parts)):
        if kept_units is not None:
            for part, units in zip(find(model), kept_units, strict=True):
                assert len(units) == len(kept_units[0]), "every block keeps the same number"
                bring(part.block)
                _cut_part(part, units.to(part.exit.weight.device))
    for name, value in changes.items():
        setattr(model.config, name, value)
    if groups is not None:
        _recount_heads(model)


@contextmanager
def silenced(
    model: transformers.PreTrainedModel, *, channels: KeptUnits | None = None, groups: KeptUnits | None = None
) -> Iterator[None]:
    """Silence channels and KV groups other than the given ones inside the block. What a cut must leave the model to compute."""
    hooks = []
    for kept_units, find in ((channels, feed_forward_parts), (groups, attention_parts)):
        for part, units in zip(find(model), kept_units, strict=True) if kept_units is not None else ():
            mask = torch.zeros(num_inputs(part.exit), dtype=torch.bool)
            mask[part.exit_columns(units.cpu())] = True
            mask = mask.to(model.device)
            hooks.append(part.exit.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask, *args[1:])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def config_changes(
    model: transformers.PreTrainedModel, *, num_channels: int | None, num_groups: int | None
) -> dict[str, int]:
    """Return the config values of the narrowed model, after a try on a model without memory.

    `num_key_value_heads` and `num_attention_heads` fall together; `head_dim` is made explicit, since it no longer follows from
    them. Raises ValueError when a model built from the config would not have the sizes.
    """
    import transformers  # a second that a plan need not wait for

    config, changes, family = model.config, {}, type(model).__name__
    if num_channels is not None:
        changes |= {name: num_channels for name in CHANNEL_KEYS if _carries(config, name)}
    if num_groups is not None:
        ratio, head_dim = _head_sizes(model)
        changes |= {
            "num_attention_heads": ratio * num_groups,
            "num_key_value_heads": num_groups,
            "head_dim": head_dim,
        }
    try:
        with torch.device("meta"):
            tried = transformers.AutoModelForCausalLM.from_config(_changed(config, changes))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{family}: its config refuses {_named(changes)}: {reason}{_accepted(model)}") from error
    for find, wanted in ((feed_forward_parts, num_channels), (attention_parts, num_groups)):
        if wanted is not None and not _fits(find(model)[0], find(tried)[0], wanted):
            raise ValueError(f"{family}: a plain config cannot say {_named(changes)}: the matrices would be larger")
    return changes


def _fits(part: Part, tried: Part, num_units: int) -> bool:
    return (tried.num_units, tried.unit_width) == (num_units, part.unit_width) and num_inputs(
        tried.exit
    ) == num_units * part.unit_width


def _head_sizes(model: transformers.PreTrainedModel) -> tuple[int, int]:
    part, num_heads = attention_parts(model)[0], model.config.num_attention_heads
    ratio = num_heads // part.num_units
    return ratio, part.unit_width // ratio


def _accepted(model: transformers.PreTrainedModel) -> str:
    """Say which numbers of KV groups the config would take, where it is the heads that it refuses."""
    try:
        ratio, head_dim = _head_sizes(model)
    except ValueError:
        return ""
    accepted = []
    for num_groups in range(1, attention_parts(model)[0].num_units):
        sizes = {
            "num_attention_heads": ratio * num_groups,
            "num_key_value_heads": num_groups,
            "head_dim": head_dim,
        }
        try:
            _changed(model.config, sizes)
        except Exception:  # noqa: BLE001 - as above
            continue
        accepted.append(str(num_groups))
    return f"; accepted numbers of KV groups: {', '.join(accepted) or 'none'}"


def _changed(config: PretrainedConfig, changes: dict[str, int]) -> PretrainedConfig:
    values: dict[str, Any] = {**config.to_dict(), **changes}
    # a config that maps one name to another would be told twice
    for name, real_name in type(config).attribute_map.items():
        if name in changes:
            values[real_name] = changes[name]
            values.pop(name, None)
    return type(config).from_dict(values)


def _carries(config: PretrainedConfig, name: str) -> bool:
    return name in config.to_dict() or name in type(config).attribute_map


def _named(changes: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "another number of channels"


def _cut_part(part: Part, units: Int[Tensor, "U"]) -> None:
    rows: dict[int, list[Tensor]] = {}
    matrices: dict[int, Matrix] = {}
    for entry in part.entries:  # a fused matrix appears once for each of its pieces
        rows.setdefault(id(entry.matrix), []).append(entry.of(units))
        matrices[id(entry.matrix)] = entry.matrix
    for key, pieces in rows.items():
        _keep_outputs(matrices[key], torch.cat(pieces))
    _keep_inputs(part.exit, part.exit_columns(units))


def _keep_outputs(matrix: Matrix, index: Int[Tensor, "N"]) -> None:
    weight = matrix.weight[index] if isinstance(matrix, nn.Linear) else matrix.weight[:, index]
    matrix.weight = nn.Parameter(weight.contiguous(), requires_grad=matrix.weight.requires_grad)
    if matrix.bias is not None:
        matrix.bias = nn.Parameter(matrix.bias[index].contiguous(), requires_grad=matrix.bias.requires_grad)
    if isinstance(matrix, nn.Linear):
        matrix.out_features = len(index)
    else:
        matrix.nf = len(index)


def _keep_inputs(matrix: Matrix, index: Int[Tensor, "N"]) -> None:
    weight = matrix.weight[:, index] if isinstance(matrix, nn.Linear) else matrix.weight[index]
    matrix.weight = nn.Parameter(weight.contiguous(), requires_grad=matrix.weight.requires_grad)
    if isinstance(matrix, nn.Linear):
        matrix.in_features = len(index)
    else:
        matrix.nx = len(index)


def _recount_heads(model: transformers.PreTrainedModel) -> None:
    """Tell attention modules, which noted their number of heads when they were built, the new one."""
    counts = {
        "num_heads": model.config.num_attention_heads,
        "num_attention_heads": model.config.num_attention_heads,
        "num_key_value_heads": model.config.num_key_value_heads,
    }
    for block in decoder_blocks(model):
        attention = next(getattr(block, name) for name in ATTENTION_NAMES if hasattr(block, name))
        for name, value in counts.items():
            if hasattr(attention, name):
                setattr(attention, name, value)
