#!/usr/bin/env bash
# onnxruntime 1.32.0.
# `session.run(["shallow"], ...)` asks for one of two outputs, and the nodes that only the other one needs are run all the same: asking for less
# saves nothing. A graph that holds all exits of a model is as slow at its first exit as at its last; it takes a branch (`If`), or a graph an exit.
# Output seen: asked for shallow alone, the profile has MatMul runs of shallow and of deep
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import numpy
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weights = [numpy_helper.from_array(numpy.full((8, 8), 0.1, numpy.float32), name) for name in ("v", "w")]
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "v"], ["shallow"], name="node_of_shallow"),
        helper.make_node("MatMul", ["shallow", "w"], ["deep"], name="node_of_deep"),
    ],
    "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("shallow", "deep")],
    weights,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
options = onnxruntime.SessionOptions()
options.enable_profiling = True
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
outputs = session.run(["shallow"], {"x": numpy.ones((1, 8), numpy.float32)})
assert len(outputs) == 1
events = json.loads(Path(session.end_profiling()).read_text())
ran = sorted({event["name"].removesuffix("_kernel_time") for event in events if event["name"].endswith("_kernel_time")})
print(f"asked for shallow alone, ran {', '.join(ran)}")
assert ran == ["node_of_deep", "node_of_shallow"], "the behaviour has changed"
PY
