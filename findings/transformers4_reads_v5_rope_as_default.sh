#!/usr/bin/env bash
# transformers 5.23.0 writes, transformers 4.57.6 reads; torch 2.13.0.
# Version 5 writes the rotary base as `rope_parameters.rope_theta` alone. Version 4.57 opens such a folder without a warning about it and
# takes its default base 10000: every tensor loads, and the model computes something else. On a random Llama of base 500000 the
# best next token is the same at 6% of 200 positions.
# Output seen: version 4.57.6 read base 10000.0 where 500000.0 was saved; same best token at 0.06 of the positions
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import subprocess
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained("model")
ids = torch.randint(0, 256, (1, 200), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    torch.save((ids, model(ids).logits.argmax(-1)), "expected.pt")

install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "transformers==4.57.6"]
subprocess.run(install, check=True)
reader = """
import torch, transformers
ids, expected = torch.load("expected.pt")
model = transformers.AutoModelForCausalLM.from_pretrained("model").eval()
with torch.no_grad():
    same = float((model(ids).logits.argmax(-1) == expected).float().mean())
base = model.config.rope_theta
print(f"version {transformers.__version__} read base {base} where 500000.0 was saved; same best token at {same:.2f} of the positions")
assert base == 10000.0 and same < 0.5, "the behaviour has changed"
"""
subprocess.run([sys.executable, "-W", "ignore", "-c", reader], check=True)
PY
