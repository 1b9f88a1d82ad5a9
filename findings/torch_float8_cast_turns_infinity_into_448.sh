#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
# `float8_e4m3fn` has no infinity. A cast to it gives 448, its largest number, for 500, for 10,000 and for infinity alike: an overflowed weight
# looks like a large one. A cast to `float8_e5m2` keeps infinity, and NaN stays NaN in both. Whoever checks after the cast finds nothing.
# Output seen: e4m3fn [448, 448, 448, -448, nan], e5m2 [512, 10240, inf, -inf, nan]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch

values = torch.tensor([500.0, 1e4, float("inf"), -float("inf"), float("nan")])
e4m3, e5m2 = (values.to(dtype).float().tolist() for dtype in (torch.float8_e4m3fn, torch.float8_e5m2))
print(f"e4m3fn {e4m3}, e5m2 {e5m2}")
assert e4m3[:4] == [448.0, 448.0, 448.0, -448.0] and e4m3[4] != e4m3[4], "the behaviour has changed"
assert e5m2[:4] == [512.0, 10240.0, float("inf"), -float("inf")], "the behaviour has changed"
PY
