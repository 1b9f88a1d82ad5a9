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
from attar.compressors.prune.width.layout import attention_of, attention_parts, feed_forward_parts
from attar.compressors.prune.width.parts import Part, num_inputs

if TYPE_CHECKING:
    import transformers
    from transformers import PretrainedConfig

    from attar.compressors.models.exits import Matrix

KeptUnits = Sequence[Int[Tensor, "U"]]
# Names of the number of channels in configs; a config may carry more than one.
CHANNEL_KEYS = (
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "ffn_hidden_size",
    "shared_intermediate_size",
    "intermediate_size_mlp",
)
# A switch by which LFM2 derives the number from another one.
DERIVED_SWITCH = "block_auto_adjust_ff_dim"


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
    model: transformers.PreTrainedModel, *, num_channels: int | None = None, num_groups: int | None = None
) -> dict[str, Any]:
    """Return the config values of the narrowed model, after a try on a model without memory.

    `num_key_value_heads` and `num_attention_heads` fall together; `head_dim` is made explicit, since it no longer follows from
    them. Raises ValueError when a model built from the config would not have the sizes.
    """
    import transformers  # a second that a plan need not wait for

    config, family = model.config, type(model).__name__
    wanted = {feed_forward_parts: num_channels, attention_parts: num_groups}
    wanted = {find: count for find, count in wanted.items() if count is not None}
    removed = sum(
        (part.num_units - count) * part.unit_parameters for find, count in wanted.items() for part in find(model)
    )
    num_left = _block_parameters(model) - removed
    options, errors = _options(model, num_channels, num_groups), []
    for changes in options:
        try:
            with torch.device("meta"):
                tried = transformers.AutoModelForCausalLM.from_config(_changed(config, changes))
            is_so = all(_fits(find(model), find(tried), count) for find, count in wanted.items())
        except Exception as error:  # noqa: BLE001 - a config class may raise anything
            errors.append(error)
            continue
        if is_so and _block_parameters(tried) == num_left:
            return changes
    if len(errors) == len(options):
        reason = " ".join(str(errors[0]).split())
        raise ValueError(f"{family}: its config refuses {_named(options[0])}: {reason}{_accepted(model)}") from errors[
            0
        ]
    raise ValueError(f"{family}: a plain config cannot say {_named(options[0])}: the matrices would be larger")


def _options(
    model: transformers.PreTrainedModel, num_channels: int | None, num_groups: int | None
) -> list[dict[str, Any]]:
    """Return the changes that may say it, the likeliest first: all names that a config has for channels, then each of them alone."""
    config = model.config
    carried = [name for name in CHANNEL_KEYS if _carries(config, name)]
    channels: list[dict[str, Any]] = [{}]
    if num_channels is not None:
        switch = {DERIVED_SWITCH: False} if _carries(config, DERIVED_SWITCH) else {}
        sets = [carried, *([name] for name in carried if len(carried) > 1)]
        channels = [
            {**{name: _like(getattr(config, name), num_channels) for name in names}, **switch} for names in sets
        ]
    groups: dict[str, Any] = {}
    if num_groups is not None:
        ratio, head_dim = _head_sizes(model)
        groups = {"num_attention_heads": ratio * num_groups, "num_key_value_heads": num_groups}
        groups |= {"head_dim": head_dim} if head_dim else {}
    return [{**entry, **groups} for entry in channels]


def _block_parameters(model: transformers.PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in decoder_blocks(model).parameters())


def _like(value: Any, count: int) -> Any:
    """Return a number as a config has it: one, or one a block."""
    return [count] * len(value) if isinstance(value, list | tuple) else count


def _fits(parts: Sequence[Part], tried: Sequence[Part], num_units: int) -> bool:
    return len(parts) == len(tried) and all(
        (built.num_units, built.unit_width, num_inputs(built.exit))
        == (num_units, part.unit_width, num_units * part.unit_width)
        for part, built in zip(parts, tried, strict=True)
    )


def _head_sizes(model: transformers.PreTrainedModel) -> tuple[int, int]:
    part, num_heads = attention_parts(model)[0], model.config.num_attention_heads
    return num_heads // part.num_units, part.head_dim


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
            **({"head_dim": head_dim} if head_dim else {}),
        }
        try:
            _changed(model.config, sizes)
        except Exception:  # noqa: BLE001 - as above
            continue
        accepted.append(str(num_groups))
    return f"; accepted numbers of KV groups: {', '.join(accepted) or 'none'}"


def _changed(config: PretrainedConfig, changes: dict[str, Any]) -> PretrainedConfig:
    values: dict[str, Any] = {**config.to_dict(), **changes}
    # a config that maps one name to another would be told twice
    for name, real_name in type(config).attribute_map.items():
        if name in changes:
            values[real_name] = changes[name]
            values.pop(name, None)
    return type(config).from_dict(values)


def _carries(config: PretrainedConfig, name: str) -> bool:
    return name in config.to_dict() or name in type(config).attribute_map


def _named(changes: dict[str, Any]) -> str:
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
    for vector in part.vectors:
        old = getattr(vector.module, vector.name)
        new = nn.Parameter(old[vector.of(units)].contiguous(), requires_grad=old.requires_grad)
        setattr(vector.module, vector.name, new)


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
        attention = attention_of(block)
        for name, value in counts.items():
            if attention is not None and hasattr(attention, name):
                setattr(attention, name, value)
