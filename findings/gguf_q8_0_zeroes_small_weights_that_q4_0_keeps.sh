#!/usr/bin/env bash
# gguf 0.19.0, numpy 2.4.6.
# Q8_0 stores one float16 scale a block: the largest magnitude divided by 127. For weights around 1e-6 that is below the smallest float16
# number, the scale becomes 0, and every weight of the block is written as zero. Q4_0 divides by 8 and keeps the same weights to 12%:
# more bits lose everything where fewer do not. No error, no warning. Such a tensor is real where a norm's gain was folded away.
# Output seen: weights of 1e-06: Q8_0 zeroes 256 of 256, Q4_0 is 0.12 of the largest off; weights of 1.0: Q8_0 0.004
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)


def error(scale, kind):
    stored = weights * np.float32(scale)
    read = dequantize(quantize(stored, kind), kind)
    return float(np.abs(read - stored).max() / np.abs(stored).max()), int((read == 0).sum())


eight, four = error(1e-6, GGMLQuantizationType.Q8_0), error(1e-6, GGMLQuantizationType.Q4_0)
usual = error(1.0, GGMLQuantizationType.Q8_0)
print(f"weights of 1e-06: Q8_0 zeroes {eight[1]} of {weights.size}, Q4_0 is {four[0]:.2f} of the largest off; weights of 1.0: Q8_0 {usual[0]:.3f}")
assert eight == (1.0, weights.size) and four[0] < 0.2 and usual[0] < 0.01, "the behaviour has changed"
PY
