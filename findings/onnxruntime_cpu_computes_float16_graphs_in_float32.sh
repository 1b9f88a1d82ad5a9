#!/usr/bin/env bash
# onnxruntime 1.32.0.
# Its CPU has no MatMul or Mul in float16. It casts a float16 graph's numbers up, and then takes out the casts between nodes: 1,200 x 1,200, which
# no float16 holds, goes through, and the graph answers with finite numbers where a GPU answers with infinity. A float16 graph that was only
# checked on the CPU is not checked. With the same roundings written into the graph as pairs of Cast nodes the overflow is seen there too.
# Output seen: float16 graph: 5762.33 ; float32 nodes with a Cast to float16 and back after each: inf
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import numpy
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
WEIGHTS = {"large": 300.0, "small": 0.001}


def said(nodes, weight_type):
    weights = [numpy_helper.from_array(numpy.full((4, 4), value, weight_type), name) for name, value in WEIGHTS.items()]
    ends = [helper.make_tensor_value_info(name, FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})[0][0, 0])


def cast(source, target, kind):
    return helper.make_node("Cast", [source], [target], to=kind)


half = said(
    [
        cast("x", "x16", HALF),
        helper.make_node("MatMul", ["x16", "large"], ["a"]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("MatMul", ["b", "small"], ["c"]),
        cast("c", "y", FLOAT),
    ],
    numpy.float16,
)
rounded = said(
    [
        helper.make_node("MatMul", ["x", "large"], ["a"]),
        *(cast("a", "a16", HALF), cast("a16", "a32", FLOAT)),
        helper.make_node("Mul", ["a32", "a32"], ["b"]),
        *(cast("b", "b16", HALF), cast("b16", "b32", FLOAT)),
        helper.make_node("MatMul", ["b32", "small"], ["y"]),
    ],
    numpy.float32,
)
print(f"float16 graph: {half:g} ; float32 nodes with a Cast to float16 and back after each: {rounded:g}")
assert numpy.isfinite(half) and not numpy.isfinite(rounded), "the behaviour has changed"
PY
