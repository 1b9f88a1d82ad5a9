#!/usr/bin/env bash
# openvino 2026.4.1, numpy 2.4.6.
# `openvino.save_model(model, path)` stores float32 constants as halves unless told otherwise, and not the matrices alone: the frequencies that
# positions are multiplied with become halves too. The error of an angle grows with the position: the rotary embedding of a model that is exact
# for short prompts is off by two thirds at position 8,000, with sums in float32. `compress_to_fp16=False` keeps it right to 0.0002.
# Output seen: largest error of cos(position * frequency): 1: 0.0001, 100: 0.0064, 1000: 0.0824, 8000: 0.6741; in float32: 0.0002
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import openvino
import openvino.opset13 as ops

POSITIONS = np.array([[1, 100, 1000, 8000]])
frequencies = (1 / 10000 ** (np.arange(0, 64, 2) / 64)).astype(np.float32).reshape(1, 32, 1)
positions = ops.parameter([1, -1], dtype=np.int64, name="positions")
columns = ops.unsqueeze(ops.convert(positions, "f32"), ops.constant(1))
angles = ops.matmul(ops.constant(frequencies), columns, False, False)
model = openvino.Model([ops.result(ops.cos(angles))], [positions], "rotary")
errors = []
for options in ({}, {"compress_to_fp16": False}):
    openvino.save_model(model, "rotary.xml", **options)
    compiled = openvino.Core().compile_model("rotary.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    errors.append(np.abs(compiled([POSITIONS])[0] - np.cos(frequencies.astype(np.float64) * POSITIONS)).max(axis=(0, 1)))
by_position = ", ".join(f"{position}: {error:.4f}" for position, error in zip(POSITIONS[0], errors[0]))
print(f"largest error of cos(position * frequency): {by_position}; in float32: {errors[1].max():.4f}")
assert errors[0][-1] > 0.5 and errors[1].max() < 0.001, "the behaviour has changed"
PY
