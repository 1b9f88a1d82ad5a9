#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, safetensors 0.8.0.
# A config that says `tie_word_embeddings: true` beside a file that holds an `lm_head.weight` of other numbers: the model is loaded UNTIED, with
# the file's head. A warning is logged, but the loading report lists nothing, and the loaded model's own config still says tied, so that code
# which asks it (quantizers, exporters, parameter counts) takes two matrices for one. One would guess that the tie wins, or an error.
# Output seen: config tied: True, one tensor: False, report empty: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained("model")
path = Path("model/model.safetensors")
tensors = load_file(path)
head = torch.ones_like(tensors["model.embed_tokens.weight"])
save_file({**tensors, "lm_head.weight": head}, path, metadata={"format": "pt"})
model, report = AutoModelForCausalLM.from_pretrained("model", output_loading_info=True)
is_one = model.lm_head.weight is model.model.embed_tokens.weight
is_empty = not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
print(f"config tied: {model.config.tie_word_embeddings}, one tensor: {is_one}, report empty: {is_empty}")
assert model.config.tie_word_embeddings and not is_one and is_empty, "the behaviour has changed"
assert torch.equal(model.lm_head.weight, head), "the behaviour has changed"
PY
