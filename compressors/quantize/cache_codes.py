"""A graph whose keys and values are cached in 8 bits. A scale a head and channel; the attention node itself writes and reads the codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.export.names import GROWING, PAST
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.nodes import store_tensor

ATTENTION = "GroupQueryAttention"
# Where the node reads keys and values of the past, and their scales: of a channel of each head, since some channels of keys are ten times
# as large as others in every token, https://arxiv.org/abs/2402.02750
PAST_PORTS, SCALE_PORTS = (3, 4), (12, 13)
PER_CHANNEL, NUM_BITS, LARGEST_CODE = "PER_CHANNEL", 8, 127
# Later texts hold larger numbers than those that were seen: a code that is full would cut them.
HEADROOM = 1.1


def largest_states(
    runner: CausalRunner,
    names: Sequence[str],
    samples: Sequence[Sequence[int]],
    *,
    on_sample: Callable[[int], None] = lambda count: None,
) -> dict[str, Float[Tensor, "K D"]]:
    """Return the largest size of each head's channels in the cache, over all tokens of the samples.

    By the names of the graph's cache. `runner`: of the float graph, whose caches hold `tensors` in the order of `names`. One text at a
    time: padding has states too.
    """
    largest: dict[str, Tensor] = {}
    for sample in samples:
        ids, mask = pad_right([sample], runner.device)
        _, cache = runner.forward(ids, mask, None, last_only=True)
        for name, states in zip(names, cache.tensors, strict=True):
            if name.endswith(GROWING):
                seen = states[0, :, : len(sample)].float().abs().amax(dim=1).cpu()
                largest[name] = torch.maximum(largest[name], seen) if name in largest else seen
        on_sample(1)
    return largest


def refuse_states(graph: ir.Graph) -> None:
    """Raise ValueError for a cache that holds more than keys and values, or is not onnxruntime's own attention's."""
    names = [str(value.name) for value in graph.inputs if str(value.name).startswith(f"{PAST}.")]
    if others := [name for name in names if not name.endswith(GROWING)]:
        raise ValueError(
            f"cache.kind is 'int8', but the model keeps states of convolutions or recurrences ({others[0]}), in which an error would stay "
            "for the whole text; accepted: float"
        )
    if not any(node.op_type == ATTENTION for node in graph):
        raise ValueError("cache.kind is 'int8', which onnxruntime's own attention alone has; accepted: operators fused")


def cache_in_codes(model: ir.Model, largest: Mapping[str, Float[Tensor, "K D"]]) -> None:
    """Hold keys and values as int8 between tokens, in place.

    x = code scale, code = round(x / scale) in [-127, 127]. The past comes in and goes out as codes; the node rounds what it appends,
    and attends over the rounded numbers, its own token's too.
    """
    refuse_states(model.graph)
    for node in model.graph:
        if node.op_type != ATTENTION:
            continue
        node.resize_inputs(SCALE_PORTS[1] + 1)
        for past, scale in zip(PAST_PORTS, SCALE_PORTS, strict=True):
            name = str(node.inputs[past].name)  # type: ignore[union-attr]
            # (1, heads, 1, channels): beside (rows, heads, columns, channels)
            stored = store_tensor(f"{name}.scale", _scales(largest[name])[None, :, None], model.graph)
            node.replace_input_with(scale, stored)
        kinds = {"k_quant_type": PER_CHANNEL, "v_quant_type": PER_CHANNEL, "kv_cache_bit_width": NUM_BITS}
        for key, value in kinds.items():
            node.attributes[key] = ir.convenience.convert_attribute(key, value)
        for value in node.outputs[1:3]:
            value.type = ir.TensorType(ir.DataType.INT8)
    for value in model.graph.inputs:
        if str(value.name).startswith(f"{PAST}."):
            value.type = ir.TensorType(ir.DataType.INT8)


def _scales(largest: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
    # a channel that is always 0, as padding of a head is, has any scale
    return torch.where(largest > 0, largest * HEADROOM, 1.0) / LARGEST_CODE
