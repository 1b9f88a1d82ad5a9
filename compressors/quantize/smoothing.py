"""Move scale from inputs that are uneven over channels into the weights, so that both round well. The float graph computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.quantize.nodes import Product

NORMS = {"RMSNormalization", "SimplifiedLayerNormalization", "LayerNormalization"}
# A channel that is silent on the calibration text may speak later: no scale goes further than this from the mean.
LARGEST_SCALE = 100.0


def smooth(
    graph: ir.Graph, matrices: Sequence[Product], powers: Mapping[str, Float[Tensor, "K"]], strength: float
) -> dict[str, Float[Tensor, "K"]]:
    """Divide inputs by s and multiply weights by it. s = rms(x)^strength / rms(w)^(1 - strength) a channel, geometric mean 1.

    `powers` is E[x^2] of each product's input, by product. The division goes into the gain of the norm before the products, or into
    the rows of the product that a gate multiplies. Products that stand behind neither stay. Returns s by product.
    https://arxiv.org/abs/2211.10438
    """
    scales: dict[str, Tensor] = {}
    sources: dict[ir.Value, list[Product]] = {}
    for product in matrices:
        sources.setdefault(product.node.inputs[0], []).append(product)  # type: ignore[arg-type]
    by_output = {product.node.outputs[0]: product for product in matrices}
    for source, readers in sources.items():
        node = source.producer()
        if node is None or len(source.uses()) != len(readers):
            continue
        is_norm = node.op_type in NORMS and node.inputs[1] is not None and node.inputs[1].const_value is not None
        feeder = None if is_norm or node.op_type != "Mul" else _sole_feeder(node, by_output)
        if not is_norm and feeder is None:
            continue
        scale = _scale(powers[readers[0].name], readers, strength)
        for product in readers:
            _scale_weight(graph, product, scale)
            scales[product.name] = scale
        if feeder is not None:
            _scale_stored(feeder.stored, 1.0 / scale, is_last=feeder.is_transposed)
            continue
        for gain in (value for value in node.inputs[1:3] if value is not None):
            _divide(graph, node, gain, scale)
    return scales


def _sole_feeder(node: ir.Node, by_output: Mapping[ir.Value, Product]) -> Product | None:
    """Return the product whose result a gate multiplies, when nothing else reads it."""
    inputs = [value for value in node.inputs if value is not None]
    feeders = [by_output[value] for value in inputs if value in by_output and len(value.uses()) == 1]
    shapes_match = len(feeders) == 1 and len(feeders[0].node.inputs) == 2 and feeders[0].lookup is None
    return feeders[0] if shapes_match else None


def _scale(power: Float[Tensor, "K"], readers: Sequence[Product], strength: float) -> Float[Tensor, "K"]:
    # a norm, not a mean of squares: that would be another matrix
    powers = [torch.linalg.vector_norm(product.weight(), dim=0).square() / product.shape[0] for product in readers]
    weight_power = torch.stack(powers).mean(0)
    logs = strength * power.clamp(min=1e-20).log() / 2 - (1 - strength) * weight_power.clamp(min=1e-20).log() / 2
    bound = float(np.log(LARGEST_SCALE))
    return (logs - logs.mean()).clamp(-bound, bound).exp()


def _scale_weight(graph: ir.Graph, product: Product, scale: Float[Tensor, "K"]) -> None:
    _scale_stored(product.stored, scale, is_last=not product.is_transposed)
    if product.lookup is None:
        return
    # the embedding is the same matrix: what was multiplied in is divided out behind the lookup
    output = product.lookup.outputs[0]
    readers = list(output.uses())
    inverse = _register(graph, f"{product.name}.unscale", (1.0 / scale).numpy())
    back = ir.node("Mul", [output, inverse])
    back.outputs[0].shape, back.outputs[0].type = output.shape, output.type
    graph.insert_after(product.lookup, back)
    for user, index in readers:
        user.replace_input_with(index, back.outputs[0])


def _scale_stored(stored: ir.Value, scale: Float[Tensor, "K"], *, is_last: bool) -> None:
    tensor = stored.const_value
    assert tensor is not None, "a product's matrix is stored"
    factor = (scale if is_last else scale[:, None]).numpy()

    def scaled() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy() * factor, name=stored.name)

    stored.const_value = ir.LazyTensor(
        scaled,
        dtype=tensor.dtype,
        shape=tensor.shape,  # type: ignore[arg-type]
        name=stored.name,
    )


def _divide(graph: ir.Graph, node: ir.Node, gain: ir.Value, scale: Float[Tensor, "K"]) -> None:
    index = list(node.inputs).index(gain)
    divided = gain.const_value.numpy() / scale.numpy()  # type: ignore[union-attr]
    node.replace_input_with(index, _register(graph, f"{node.outputs[0].name}.gain.{index}", divided))


def _register(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    stored = ir.tensor(np.ascontiguousarray(array, np.float32), name=name)
    value = ir.Value(name=name, shape=stored.shape, type=ir.TensorType(stored.dtype), const_value=stored)  # type: ignore[arg-type]
    graph.register_initializer(value)
    return value
