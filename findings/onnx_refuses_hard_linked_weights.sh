#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0.
# A graph whose external data file has a second hard link (a backup by `cp -al` or `rsync --link-dest`, a deduplicating store) is refused by
# `onnx.load` and by the checker; onnxruntime opens the same folder and runs it. The graph is whole: nothing but a link count changed.
# Output seen: before the link onnx loads it; after: ValidationError (multiple hard links); onnxruntime gives 64.0 before and after
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import os

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weight = numpy_helper.from_array(numpy.ones((64, 64), numpy.float32), "w")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
    [weight],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.save(model, "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)


def by_onnx():
    try:
        onnx.load("model.onnx")
    except onnx.checker.ValidationError as error:
        assert "multiple hard links" in str(error)
        return "ValidationError"
    return "loads"


def by_runtime():
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": numpy.ones((1, 64), numpy.float32)})[0][0, 0])


before = by_onnx(), by_runtime()
os.link("model.data", "backup.data")
after = by_onnx(), by_runtime()
print(f"before {before}, with a second link {after}")
assert before == ("loads", 64.0) and after == ("ValidationError", 64.0), "the behaviour has changed"
PY
