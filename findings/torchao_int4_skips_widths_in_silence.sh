#!/usr/bin/env bash
# torchao 0.18.0, torch 2.13.0.
# `quantize_(model, Int4WeightOnlyConfig(group_size=128))` on a layer of width 576 (SmolLM2's hidden size, no multiple of 128) returns without
# an error, a warning or a log line, and the layer is as it was: bfloat16. A model of such layers is "quantized" and not a byte smaller.
# One would guess an error, as other int4 writers give. Count what was really quantized.
# Output seen: width 576: Parameter torch.bfloat16, unchanged: True, lines that tell of it: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import logging
import warnings

import torch
from torchao.quantization import Int4WeightOnlyConfig, quantize_

lines = []
handler = logging.Handler()
handler.emit = lines.append
logging.getLogger().addHandler(handler)
model = torch.nn.Sequential(torch.nn.Linear(576, 64, bias=False)).to(torch.bfloat16)
before = model[0].weight.detach().clone()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    quantize_(model, Int4WeightOnlyConfig(group_size=128))
weight = model[0].weight
told = [text for text in [*(str(w.message) for w in caught), *(r.getMessage() for r in lines)] if "576" in text or "group" in text]
unchanged = type(weight) is torch.nn.Parameter and weight.dtype == torch.bfloat16 and torch.equal(weight, before)
print(f"width 576: {type(weight).__name__} {weight.dtype}, unchanged: {unchanged}, lines that tell of it: {len(told)}")
assert unchanged and not told, "the behaviour has changed"
PY
