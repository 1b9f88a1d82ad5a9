#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, safetensors 0.8.0.
# A config.json without a dtype, and a file that holds one float16 tensor among float32 ones: `from_pretrained` gives EVERY parameter
# the dtype of the tensor whose name sorts first. One would guess that each tensor keeps its own, or that the majority decides.
# With `lm_head.weight` alone in float16 all 21 parameters come back in float16: 20 of them lose 13 bits of their numbers without a word.
# Output seen: stored {'float16': 1, 'float32': 20}, loaded {'float16': 21}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)
LlamaForCausalLM(config).save_pretrained("model")
path = Path("model/model.safetensors")
tensors = load_file(path)
tensors["lm_head.weight"] = tensors["lm_head.weight"].half()
save_file(tensors, path, metadata={"format": "pt"})
options = json.loads(Path("model/config.json").read_text())
options.pop("dtype")
Path("model/config.json").write_text(json.dumps(options))


def dtypes(values):
    return dict(sorted(Counter(str(value.dtype).removeprefix("torch.") for value in values).items()))


stored, loaded = dtypes(tensors.values()), dtypes(AutoModelForCausalLM.from_pretrained("model").parameters())
print(f"stored {stored}, loaded {loaded}")
assert stored == {"float16": 1, "float32": 20} and loaded == {"float16": 21}, "the behaviour has changed"
PY
