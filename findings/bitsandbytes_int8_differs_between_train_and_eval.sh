#!/usr/bin/env bash
# bitsandbytes 0.50.2, torch 2.13.0, on a CPU.
# One `Linear8bitLt` gives two results for one input: in `train()` it multiplies by the dequantized weight, in `eval()` it also rounds the
# activations to 8 bits. The error doubles, and with threshold 0 a single activation of 1e5 makes every output of eval NaN, train is finite.
# A student measured in one mode and served in the other is another model.
# Output seen: error train 0.004, eval 0.007; NaN with one input of 1e5: train 0, eval 64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 bitsandbytes==0.50.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from bitsandbytes.nn import Int8Params, Linear8bitLt

torch.manual_seed(0)
plain = torch.nn.Linear(64, 64, bias=False)
layer = Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=0.0)
layer.weight = Int8Params(plain.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
layer = layer.to("cpu")
states = torch.randn(8, 64)
large = states.clone()
large[0, 3] = 1e5
with torch.no_grad():
    expected = plain(states)
    train = layer.train()
    errors = {"train": float((train(states) - expected).norm() / expected.norm())}
    num_nan = {"train": int(train(large).isnan().sum())}
    layer.eval()
    errors["eval"] = float((layer(states) - expected).norm() / expected.norm())
    num_nan["eval"] = int(layer(large).isnan().sum())
print(f"relative error {errors}; outputs that are NaN with one input of 1e5: {num_nan}")
assert errors["eval"] > 1.5 * errors["train"] and num_nan == {"train": 0, "eval": 64}, "the behaviour has changed"
PY
