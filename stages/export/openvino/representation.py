"""Turn an ONNX graph of standard operators into OpenVINO's representation: the cache becomes its own state, matrices halves or integers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.compressors.export.names import PAST, PRESENT
from attar.stages.export.openvino.matrices import integer_rows

# As OpenVINO GenAI and optimum-intel name them. `beam_idx`: which row of the state each row goes on from.
MODEL, BEAMS = "openvino_model.xml", "beam_idx"


def write_representation(graph: Path, weights: str, num_matrices: int, folder: Path) -> None:
    """Convert a graph and write it with matrices of type `weights`, of which the model has `num_matrices`.

    Raises ValueError where the graph holds other matrices than the model.
    """
    openvino = importlib.import_module("openvino")
    model = openvino.convert_model(str(graph))
    _keep_cache_inside(model)
    if weights != "f32":
        num_stored = _store_matrices(model, weights)
        if num_stored != num_matrices:
            raise ValueError(
                f"format.weights is {weights!r}, but OpenVINO's graph has {num_stored} matrices, the model {num_matrices}; accepted: f32"
            )
    # not the library's own halves: it rounds the frequencies of the rotary embedding too
    openvino.save_model(model, str(folder / MODEL), compress_to_fp16=False)


def _keep_cache_inside(model: Any) -> None:
    """Replace the cache's inputs and outputs by states that begin empty, with a row for each row of the input."""
    transformations = importlib.import_module("openvino._offline_transformations")  # as optimum-intel does
    ops = _operators()
    ports = [port for port in model.inputs if port.get_any_name().startswith(f"{PAST}.")]
    beams = ops.parameter([-1], dtype=np.int32, name=BEAMS)
    beams.output(0).get_tensor().add_names({BEAMS})
    model.add_parameters([beams])
    for port in ports:
        readers = list(port.get_target_inputs())
        chosen = ops.gather(port, beams, ops.constant(0, dtype=np.int64))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    names = [port.get_any_name() for port in ports]
    model.validate_nodes_and_infer_types()
    transformations.apply_make_stateful_transformation(model, {name: name.replace(PAST, PRESENT, 1) for name in names})
    rows = ops.gather(
        ops.shape_of(model.input("input_ids"), output_type="i64"),
        ops.constant([0], dtype=np.int64),
        ops.constant(0, dtype=np.int64),
    )
    for state in [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]:
        sizes = [size.get_length() if size.is_static else 0 for size in state.get_output_partial_shape(0)]
        shape = ops.concat([rows, ops.constant(sizes[1:], dtype=np.int64)], 0)
        state.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), shape)])
    model.validate_nodes_and_infer_types()


def _store_matrices(model: Any, weights: str) -> int:
    """Store every matrix that a product or a lookup reads as halves or integers; return how many there are."""
    matrices = [node for node in model.get_ops() if _is_matrix(node)]
    for node in matrices:
        _store(node, weights)
    return len(matrices)


def _is_matrix(node: Any) -> bool:
    if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) != 2 or 1 in node.get_output_shape(0):
        return False
    if str(node.get_output_element_type(0).get_type_name()) != "f32":
        return False
    readers = {reader.get_node().get_type_name() for reader in node.output(0).get_target_inputs()}
    return bool(readers) and readers <= {"MatMul", "Gather", "Transpose"}


def _store(node: Any, weights: str) -> None:
    """Let what reads a float matrix read the stored one, expanded. Products read rows of outputs, whatever they read before."""
    ops = _operators()
    readers = list(node.output(0).get_target_inputs())
    turned = [reader.get_node() for reader in readers if _reads_columns(reader.get_node())]
    matrix = torch.from_numpy(np.array(node.data))
    rows = matrix.T.contiguous() if turned else matrix
    if weights == "f16":
        expanded = ops.convert(ops.constant(rows.half().numpy()), "f32")
    else:
        codes, scales = integer_rows(rows)
        expanded = ops.multiply(ops.convert(ops.constant(codes.numpy()), "f32"), ops.constant(scales.numpy()))
    if not turned:
        for reader in readers:
            reader.replace_source_output(expanded.output(0))
        return
    for product in turned:
        first = product.input_value(0)
        is_first_turned = bool(product.get_attributes()["transpose_a"])
        again = ops.matmul(first, expanded, is_first_turned, True)
        again.set_friendly_name(product.get_friendly_name())
        for reader in list(product.output(0).get_target_inputs()):
            reader.replace_source_output(again.output(0))


def _reads_columns(node: Any) -> bool:
    return node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]


def _operators() -> Any:
    return importlib.import_module("openvino.opset13")
