"""Find the matrix products of an exported graph, and put integer nodes in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from jaxtyping import Float, Int8
from onnx_ir.passes import common
from torch import Tensor

from attar.compressors.quantize.blocks import BlockWeights

CONTRIB = "com.microsoft"
# int8 activations inside the product: what makes it fast on a CPU
ACCURACY_LEVEL = 4
# The largest code of which two, each times an activation of 8 bits without a sign, fit the 16 bits that some processors add them in.
SAFE_CODE = 64


@dataclass(frozen=True)
class Product:
    """One product with a stored matrix, by the matrix's name in the model. `lookup` is the embedding that shares the matrix, if any."""

    name: str
    node: ir.Node
    stored: ir.Value
    is_transposed: bool  # stored as K by N
    lookup: ir.Node | None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): output and input channels."""
        first, second = (int(dim) for dim in self.stored.shape)  # type: ignore[union-attr]
        return (second, first) if self.is_transposed else (first, second)

    @property
    def num_bytes(self) -> int:
        """Size of the float32 matrix."""
        return 4 * self.shape[0] * self.shape[1]

    def weight(self) -> Float[Tensor, "N K"]:
        """Read the matrix."""
        weight = torch.from_numpy(read_stored(self.stored))
        return weight.T.contiguous() if self.is_transposed else weight


def products(graph: ir.Graph) -> list[Product]:
    """Return the products of the graph in order: MatMul or Gemm with a stored matrix. Raises ValueError when there is none."""
    matches = []
    for node in graph:
        if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        matrix, is_transposed = node.inputs[1], True
        if node.op_type == "Gemm":
            factors = [float(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta")]
            if factors != [1.0, 1.0] or node.attributes.get_int("transA", 0):
                continue
            is_transposed = not node.attributes.get_int("transB", 0)
        turn = matrix.producer()
        if turn is not None and turn.op_type == "Transpose":  # a tied matrix is stored once, as the embedding has it
            matrix, is_transposed = turn.inputs[0], not is_transposed
        if matrix is None or matrix.const_value is None or matrix.shape is None or len(matrix.shape) != 2:
            continue
        lookups = [user for user, _ in matrix.uses() if user.op_type == "Gather"]
        matches.append(Product(_plain_name(matrix), node, matrix, is_transposed, lookups[0] if lookups else None))
    if not matches:
        raise ValueError("the graph has no product with a stored matrix; is it quantized already?")
    return matches


@dataclass(frozen=True)
class Embedding:
    """A lookup of token ids in a stored matrix."""

    name: str
    node: ir.Node
    stored: ir.Value

    @property
    def width(self) -> int:
        """Numbers a token."""
        return int(self.stored.shape[1])  # type: ignore[index, arg-type]

    def weight(self) -> Float[Tensor, "V K"]:
        """Read the matrix."""
        return torch.from_numpy(read_stored(self.stored))


def read_stored(stored: ir.Value) -> np.ndarray:
    """Return the numbers of a stored matrix, a copy that may be written."""
    assert stored.const_value is not None, "stored"
    return np.array(stored.const_value.numpy())


def embeddings(graph: ir.Graph) -> list[Embedding]:
    """Return the lookups of token ids."""
    matrices = []
    for node in graph:
        if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[1] is not None:
            stored = node.inputs[0]
            if node.inputs[1].name == "input_ids" and stored.const_value is not None:
                matrices.append(Embedding(_plain_name(stored), node, stored))
    return matrices


def integer_product(
    product: Product, weights: BlockWeights, graph: ir.Graph, *, is_twofold: bool = False
) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that compute the product in integers, and their result. Their tensors are registered in `graph`.

    The kernel rounds inputs to int8, a scale a block. `is_twofold`: what that rounding leaves is rounded and multiplied too, as more
    rows of the same call: the inputs then have 16 bits, and the weights are still read once.
    """
    source = product.node.inputs[0]
    assert source is not None and source.shape is not None, "a product reads something"
    before, rows = _twofold(source, weights.block_size, product.name, graph) if is_twofold else ([], source)
    num_outputs, num_channels = product.shape
    attributes = {"K": num_channels, "N": num_outputs, "bits": weights.bits, "block_size": weights.block_size}
    inputs = [rows, *_tensors(product.name, weights, graph)]
    node = ir.node("MatMulNBits", inputs, attributes | {"accuracy_level": ACCURACY_LEVEL}, domain=CONTRIB)
    if not is_twofold:
        return _with_bias(product, node)
    parts = ir.node("Split", [node.outputs[0]], {"axis": len(source.shape) - 2, "num_outputs": 2}, num_outputs=2)
    total = ir.node("Add", list(parts.outputs))
    after, result = _with_bias(product, total)
    return [*before, node, parts, *after], result


def dynamic_product(product: Product, weight: Float[Tensor, "N K"], graph: ir.Graph) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that quantize activations as they come. One scale for all; products in 8 bits by output channel.

    The codes have seven bits. On processors with AVX2 or AVX-512 and no VNNI onnxruntime adds two products of an activation (to 255) and
    a code in 16 bits and cuts what does not fit in silence: two of 255 x 127 are 64,770, of 255 x 64 they are 32,640, and 32,767 is the most.
    """
    codes, scales = dynamic_codes(weight)
    inputs = [
        product.node.inputs[0],
        store_tensor(f"{product.name}.int8", codes.T.contiguous(), graph),
        store_tensor(f"{product.name}.scales", scales, graph),
        store_tensor(f"{product.name}.zero_points", torch.zeros(len(scales), dtype=torch.int8), graph),
    ]
    return _with_bias(product, ir.node("DynamicQuantizeMatMul", inputs, domain=CONTRIB))


def dynamic_codes(weight: Float[Tensor, "N K"]) -> tuple[Int8[Tensor, "N K"], Float[Tensor, "N"]]:
    """Return the codes of a dynamic product and the scale of each output channel. It multiplies with codes * scale."""
    scales = weight.abs().amax(dim=1).clamp(min=1e-12) / SAFE_CODE
    return (weight / scales[:, None]).round().clamp(-SAFE_CODE, SAFE_CODE).to(torch.int8), scales


def integer_lookup(
    lookup: ir.Node, name: str, weights: BlockWeights, graph: ir.Graph
) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that look tokens up in integers: the very tensors of the output head where the two are tied."""
    codes, scales, *zeros = _tensors(name, weights, graph)
    # the head reads the codes block by block, a lookup row by row: the same bytes
    rows = ir.node("Reshape", [codes, store_tensor(f"{name}.rows", torch.tensor([0, -1]), graph)])
    attributes = {"bits": weights.bits, "block_size": weights.block_size, "gather_axis": 0, "quantize_axis": 1}
    node = ir.node(
        "GatherBlockQuantized", [rows.outputs[0], lookup.inputs[1], scales, *zeros], attributes, domain=CONTRIB
    )
    return [rows, node], node.outputs[0]


def replace_node(old: ir.Node, nodes: list[ir.Node], result: ir.Value, graph: ir.Graph) -> None:
    """Let the new nodes do what `old` did."""
    result.shape, result.type = old.outputs[0].shape, old.outputs[0].type
    graph.insert_before(old, nodes)
    ir.convenience.replace_all_uses_with(old.outputs[0], result, replace_graph_outputs=True)
    name = old.outputs[0].name
    graph.remove(old, safe=True)
    result.name = name


def finished(model: ir.Model) -> ir.Model:
    """Drop what no node reads any more and name the operator set of the new nodes."""
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports[CONTRIB] = 1
    return model


def set_float_inputs(graph: ir.Graph) -> None:
    """Let integer products read what they are given unrounded. Slow, and to the digits of float32 the numbers that the codes stand for."""
    for node in list(graph):
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
        elif node.op_type == "DynamicQuantizeMatMul":
            # not DequantizeLinear, of which onnxruntime may make an integer product again
            cast = ir.node("Cast", [node.inputs[1]], {"to": int(ir.DataType.FLOAT)})
            weight = ir.node("Mul", [cast.outputs[0], node.inputs[2]])
            product = ir.node("MatMul", [node.inputs[0], weight.outputs[0]])
            replace_node(node, [cast, weight, product], product.outputs[0], graph)


def store_again(stored: ir.Value, matrix: Tensor) -> None:
    """Put other numbers in the place of a stored matrix, for every node that reads it."""
    stored.const_value = ir.tensor(matrix.float().contiguous().numpy(), name=stored.name)


def _plain_name(stored: ir.Value) -> str:
    return str(stored.name).removesuffix(".T").removesuffix(".weight").removeprefix("model.")


def _twofold(source: ir.Value, block_size: int, name: str, graph: ir.Graph) -> tuple[list[ir.Node], ir.Value]:
    """Return nodes that put (what int8 keeps of the input, what it leaves) one behind the other, and their result."""
    kept_axes = [0] * (len(source.shape) - 1)  # type: ignore[arg-type]
    constants = {"blocks": torch.tensor([*kept_axes, -1, block_size]), "rows": torch.tensor([*kept_axes, -1])}
    constants |= {"last": torch.tensor([-1]), "least": torch.tensor(1e-20), "levels": torch.tensor(127.0)}
    stored = {part: store_tensor(f"{name}.twofold.{part}", tensor, graph) for part, tensor in constants.items()}
    blocks = ir.node("Reshape", [source, stored["blocks"]])
    size = ir.node("Abs", [blocks.outputs[0]])
    largest = ir.node("ReduceMax", [size.outputs[0], stored["last"]], {"keepdims": 1})
    above = ir.node("Max", [largest.outputs[0], stored["least"]])
    step = ir.node("Div", [above.outputs[0], stored["levels"]])
    scaled = ir.node("Div", [blocks.outputs[0], step.outputs[0]])
    whole = ir.node("Round", [scaled.outputs[0]])
    back = ir.node("Mul", [whole.outputs[0], step.outputs[0]])
    reshaped = ir.node("Reshape", [back.outputs[0], stored["rows"]])
    left = ir.node("Sub", [source, reshaped.outputs[0]])
    both = ir.node("Concat", [reshaped.outputs[0], left.outputs[0]], {"axis": len(kept_axes) - 1})
    return [blocks, size, largest, above, step, scaled, whole, back, reshaped, left, both], both.outputs[0]


def _with_bias(product: Product, node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    bias = product.node.inputs[2] if len(product.node.inputs) > 2 else None
    if bias is None:
        return [node], node.outputs[0]
    add = ir.node("Add", [node.outputs[0], bias])
    return [node, add], add.outputs[0]


def _tensors(name: str, weights: BlockWeights, graph: ir.Graph) -> list[ir.Value]:
    tensors = {"codes": weights.packed_codes(), "scales": weights.scales, "zero_points": weights.packed_zero_points()}
    return [store_tensor(f"{name}.{part}", tensor, graph) for part, tensor in tensors.items() if tensor is not None]


def store_tensor(name: str, tensor: Tensor, graph: ir.Graph) -> ir.Value:
    """Return the graph's stored tensor of that name, registered now if it is not there."""
    if name in graph.initializers:
        return graph.initializers[name]
    stored = ir.tensor(tensor.contiguous().numpy(), name=name)
    value = ir.Value(name=name, shape=stored.shape, type=ir.TensorType(stored.dtype), const_value=stored)  # type: ignore[arg-type]
    graph.register_initializer(value)
    return value
