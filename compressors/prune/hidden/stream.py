"""Show where a model's residual stream is: norms that read it, parts behind them, dimensions as wide as it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import stopped
from attar.compressors.models.skeleton import as_read, stored_tensors
from attar.compressors.prune.depth.seam import ATTENTION_HALF, FEED_FORWARD_HALF, check_halves

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What rounding in bf16 may make of a norm or of an embedding; another formula is off by far more.
TOLERANCE = 2e-2


@dataclass(frozen=True)
class Reading:
    """A norm that reads the stream, and what reads the norm: attention, feed-forward part or head."""

    norm: nn.Module
    part: nn.Module


@dataclass(frozen=True)
class Stream:
    """A residual stream of `width` channels. `sized`: the dimensions as wide as it is, by the id of the tensor.

    `skeleton`: the model without memory in which these dimensions are narrower.
    """

    width: int
    readings: tuple[Reading, ...]
    sized: Mapping[int, tuple[int, ...]]
    skeleton: PreTrainedModel

    def readers(self, part: nn.Module) -> list[nn.Linear]:
        """Return the plain matrices of a part, itself included, that read the stream."""
        return self._matrices(part, (1,))

    def writers(self, part: nn.Module) -> list[nn.Linear]:
        """Return the plain matrices of a part that add to the stream."""
        return self._matrices(part, (0,))

    def _matrices(self, part: nn.Module, dims: tuple[int, ...]) -> list[nn.Linear]:
        modules = [module for module in part.modules() if isinstance(module, nn.Linear)]
        return [matrix for matrix in modules if self.sized.get(id(matrix.weight)) == dims]


def stream_of(model: PreTrainedModel, num_kept: int) -> Stream:
    """Return the stream of a model whose config can say that it has `num_kept` channels.

    A model without memory, built from the changed config, tells which dimensions of which tensors shrink. Raises ValueError where a
    family's config cannot say the width, or something else than the channels of the stream would shrink with it.
    """
    family, width = type(model).__name__, stream_width(model)
    readings = stream_readings(model)
    try:
        with torch.device("meta"):
            skeleton = type(model)(narrowed_config(model.config, num_kept))
    except Exception as error:  # a config class may raise anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{family}: its config cannot say hidden_size {num_kept}: {reason}") from error
    tensors, others = stored_tensors(model), stored_tensors(skeleton)
    if tensors.keys() != others.keys():
        raise ValueError(f"{family}: a model of another hidden_size has other tensors; its stream cannot be cut")
    sized = {}
    for name, tensor in tensors.items():
        shape, other = tuple(tensor.shape), tuple(others[name].shape)
        dims = tuple(dim for dim, (size, new_size) in enumerate(zip(shape, other, strict=False)) if size != new_size)
        if len(shape) != len(other) or any((shape[dim], other[dim]) != (width, num_kept) for dim in dims):
            raise ValueError(f"{family}: {name} would be {other}, not {num_kept} of {width} channels of {shape}")
        if dims:
            sized[id(tensor)] = dims
    return Stream(width, readings, sized, skeleton)


def check_stream(model: PreTrainedModel) -> None:
    """Raise ValueError, with the reason, for a family whose stream cannot lose channels."""
    family = type(model).__name__
    for reading in stream_readings(model):
        if not _is_rms(reading.norm):
            raise ValueError(
                f"{family}: {type(reading.norm).__name__} is no plain RMS norm with a weight a channel; channels that are gone would "
                "change the mean that it takes off, or its weight is not what it multiplies by"
            )
    if not _is_plain_embedding(model):
        raise ValueError(
            f"{family}: what enters block 0 is not the embedding (positions, a norm, or a factor that follows from hidden_size)"
        )
    stream_of(model, next_width(model))


def accepted_widths(model: PreTrainedModel, step: int, least: int, num_heads: Sequence[int] = ()) -> list[int]:
    """Return the widths from `least` on, multiples of `step` below the present one, that the config takes beside its heads.

    `num_heads`: other numbers of heads beside which it must take them too.
    """
    widths = range(max(step, -(-least // step) * step), stream_width(model), step)
    return [width for width in widths if all(_takes(model.config, width, count) for count in (None, *num_heads))]


def next_width(model: PreTrainedModel) -> int:
    """Return the widest narrower stream that the config takes. Raises ValueError where it takes none down to half."""
    whole = stream_width(model)
    width = next((width for width in range(whole - 1, whole // 2, -1) if _takes(model.config, width)), 0)
    if not width:
        raise ValueError(f"{type(model).__name__}: its config takes no hidden_size between {whole // 2} and {whole}")
    return width


def stream_width(model: PreTrainedModel) -> int:
    """Return the number of channels of the residual stream."""
    width: Any = model.config.hidden_size
    return int(width)


def stream_readings(model: PreTrainedModel) -> tuple[Reading, ...]:
    """Return the norms that read the stream, each with the part behind it. They are in the order in which they run, the head's last.

    Raises ValueError for families whose blocks are not a normed attention part and a normed feed-forward part behind it.
    """
    blocks, readings = decoder_blocks(model), []
    for index, block in enumerate(blocks):
        check_halves(model, index)
        for norm, part in (ATTENTION_HALF, FEED_FORWARD_HALF):
            readings.append(Reading(getattr(block, norm), getattr(block, part)))
    return (*readings, Reading(_final_norm(model), model.get_output_embeddings()))  # type: ignore[arg-type]


def narrowed_config(config: PretrainedConfig, width: int) -> PretrainedConfig:
    """Return a config with another hidden_size, as a later load reads it. Raises what the config class raises."""
    changed = copy.deepcopy(config)
    for name, value in config_changes(config, width).items():
        setattr(changed, name, value)
    return as_read(changed)


def config_changes(config: PretrainedConfig, width: int) -> dict[str, int]:
    """Return the values of a config that say another width. Heads keep their size, which is stated where it followed from the width."""
    changes = {"hidden_size": width}
    if getattr(config, "head_dim", None) is None:
        changes["head_dim"] = config.hidden_size // config.num_attention_heads
    return changes


def _takes(config: PretrainedConfig, width: int, num_heads: int | None = None) -> bool:
    config = copy.deepcopy(config)
    changes = config_changes(config, width)
    if num_heads is not None:
        changes |= {"num_attention_heads": num_heads, "num_key_value_heads": num_heads}
    try:
        for name, value in changes.items():
            setattr(config, name, value)
        as_read(config)
    except Exception:  # noqa: BLE001 - a config class may raise anything
        return False
    return True


def _final_norm(model: PreTrainedModel) -> nn.Module:
    """Return the one norm outside the blocks that is as wide as the stream."""
    inside = {id(module) for module in decoder_blocks(model).modules()}
    norms = [
        module
        for module in model.modules()
        if id(module) not in inside
        and [tuple(parameter.shape) for parameter in module._parameters.values() if parameter is not None]
        == [(stream_width(model),)]
    ]
    if len(norms) != 1 or not isinstance(model.get_output_embeddings(), nn.Linear):
        raise ValueError(
            f"{type(model).__name__}: {len(norms)} norms with one weight outside its blocks, one before a plain head is expected"
        )
    return norms[0]


@torch.no_grad()
def _is_rms(norm: nn.Module) -> bool:
    """Return whether a norm divides by the root mean square and multiplies by its one weight, and does no more."""
    if [name for name, _ in norm.named_parameters()] != ["weight"]:
        return False
    weight: Any = norm.weight
    # a mean, which a LayerNorm would take off
    draw = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)) + 1.0
    draw = draw.to(weight)
    expected = draw.float() * draw.float().pow(2).mean(dim=-1, keepdim=True).rsqrt() * weight.float()
    return _is_near(norm(draw), expected)


@torch.no_grad()
def _is_plain_embedding(model: PreTrainedModel) -> bool:
    """Return whether block 0 receives the embedding's rows, times what the config says of them (Granite)."""
    table: Any = model.get_input_embeddings()
    ids = torch.arange(8, device=model.device)[None] % table.weight.shape[0]
    with stopped(decoder_blocks(model)[0], is_before=True) as states:
        model(input_ids=ids, use_cache=False)
    factor = float(getattr(model.config, "embedding_multiplier", 1.0))
    return _is_near(states[0], factor * table.weight[ids].float())


def _is_near(given: Tensor, expected: Tensor) -> bool:
    return bool((given.float() - expected).abs().max() <= TOLERANCE * expected.abs().max())
