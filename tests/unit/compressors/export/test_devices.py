"""Where a graph's cache lies and what is bound for it, by type and device. No GPU is needed to see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from attar.compressors.export.runtime import CUDA, ELEMENTS, OnnxCache, OnnxRunner
from attar.stages.artifacts.onnx_session import RECORDED, refuse_fallen

PARTS = ("key", "value")


@dataclass
class Bindings:
    """What onnxruntime would be told."""

    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def bind_input(self, name: str, *what: Any) -> None:
        self.inputs[name] = what

    def bind_output(self, name: str, *what: Any) -> None:
        self.outputs[name] = what


def session_of(kind: str, bindings: Bindings) -> Any:
    """What OnnxRunner reads of a session on CUDA: two heads of four channels, two blocks."""
    caches = [f"past_key_values.{block}.{part}" for block in range(2) for part in PARTS]
    inputs = [SimpleNamespace(name=name, type=kind, shape=["batch_size", 2, "past", 4]) for name in caches]
    return SimpleNamespace(
        get_providers=lambda: [CUDA],
        get_inputs=lambda: inputs,
        get_outputs=lambda: [SimpleNamespace(name="logits", type="tensor(float)", shape=["b", "t", 7])],
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        io_binding=lambda: bindings,
        run_with_iobinding=lambda binding: None,
    )


@pytest.mark.parametrize(
    ("kind", "dtype", "size"),
    [
        ("tensor(float)", torch.float32, 4),
        ("tensor(float16)", torch.float16, 2),
        ("tensor(bfloat16)", torch.bfloat16, 2),
        ("tensor(int8)", torch.int8, 1),
    ],
)
def test_a_cache_has_the_graphs_type_and_is_bound_in_place(kind: str, dtype: torch.dtype, size: int) -> None:
    bindings = Bindings()
    runner = OnnxRunner(session_of(kind, bindings), CUDA)
    assert runner.cache_bytes_per_token == 2 * 2 * 2 * 4 * size
    cache = OnnxCache(runner, 3, 5)
    assert {tensor.dtype for tensor in cache.tensors} == {dtype} and not any(tensor.any() for tensor in cache.tensors)
    cache.run(torch.ones(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.long))
    first = cache.tensors[0]
    expected = ("cpu", 0, ELEMENTS[dtype], [3, 2, 5, 4], first.data_ptr())
    assert bindings.inputs["past_key_values.0.key"] == bindings.outputs["present.0.key"] == expected


def test_element_numbers_are_onnxs_own() -> None:
    for dtype, number in ELEMENTS.items():
        name = {torch.float32: "FLOAT"}.get(dtype, str(dtype).removeprefix("torch.").upper())
        assert number == onnx.TensorProto.DataType.Value(name)


def test_all_lies_on_the_providers_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that only has shapes: whatever went through this machine's memory would fail."""
    bindings = Bindings()
    runner = OnnxRunner(session_of("tensor(float16)", bindings), CUDA)
    runner.device = torch.device("meta")
    slots = runner.open_slots(4, 5, 6)
    logits = slots.step([3, 4, 5, 6], [1, 2, 3, 4])
    assert logits.device.type == "meta" and logits.shape == (4, 7)
    devices = {name: what[0] for name, what in (bindings.inputs | bindings.outputs).items()}
    assert (
        set(devices.values()) == {"meta"}
        and {"input_ids", "attention_mask", "position_ids", "logits"} <= devices.keys()
    )
    slots.move(3, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert OnnxRunner(session_of("tensor(float16)", Bindings()), CUDA).device.type == "cuda"


def test_a_product_that_fell_back_to_the_cpu_is_named_and_shapes_are_not() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Shape", ["y"], ["size"])]
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 2), np.eye(2, dtype=np.float32).ravel())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    size = helper.make_tensor_value_info("size", TensorProto.INT64, [2])

    def opened(chosen: list[Any], outputs: list[Any]) -> Any:
        graph = helper.make_graph(chosen, "graph", ends[:1], outputs, [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(RECORDED, "1")
        return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    with pytest.raises(
        ValueError, match=f"{CUDA} has no kernel for MatMul in the graph's types, which would run on the CPU"
    ):
        refuse_fallen(opened(nodes, [ends[1], size]), CUDA)
    refuse_fallen(opened(nodes, [ends[1], size]), "CPUExecutionProvider")
    refuse_fallen(opened([helper.make_node("Shape", ["x"], ["size"])], [size]), CUDA)
