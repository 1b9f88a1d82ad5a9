#!/usr/bin/env bash
# compressed-tensors 0.20.0, transformers 5.23.0, torch 2.13.0.
# The strategy "token" gives each token's inputs a scale of its own where they are [batch, tokens, width]. Where they are [tokens, width], as
# in an expert or behind a flatten, one scale is taken over all tokens: a loud token rounds the others to zero. The dimensions to keep are
# written down as {0, 1}, and of two dimensions nothing is left to reduce, which is read as "reduce all". vLLM's kernels take each row alone.
# Output seen: [1, 2, 8]: scales (1, 2, 1), quiet token kept; [2, 8]: scales (1,), quiet token all zero
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
states = torch.stack([torch.linspace(-1, 1, 8), torch.linspace(-1000, 1000, 8)])  # a quiet token, a loud one
seen = []
for shaped in (states[None], states):
    scale, zero = compute_dynamic_scales_and_zp(value=shaped, args=args, module=torch.nn.Linear(8, 1))
    rounded = fake_quantize(x=shaped, scale=scale, zero_point=zero, args=args).reshape(2, 8)
    quiet = "kept" if torch.allclose(rounded[0], states[0], atol=0.01) else "all zero" if not rounded[0].any() else "changed"
    seen.append((tuple(scale.shape), quiet))
    print(f"{list(shaped.shape)}: scales {tuple(scale.shape)}, quiet token {quiet}")
assert seen == [((1, 2, 1), "kept"), ((1,), "all zero")], "the behaviour has changed"
PY
