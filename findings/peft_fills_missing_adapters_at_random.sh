#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# An adapter folder whose config says `init_lora_weights: false` (as one saved by a test or a merge often does) and whose file lacks a block:
# `PeftModel.from_pretrained` gives the missing block a RANDOM adapter, another one at each load, and a warning at most. One would guess zero,
# which is what a missing LoRA means with the default initialisation.
# Output seen: block 1, which is not in the file, has an update of norm above 0, and another one at each load
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)
lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
get_peft_model(LlamaForCausalLM(config), lora).save_pretrained("adapter")
path = Path("adapter/adapter_model.safetensors")
save_file({name: value for name, value in load_file(path).items() if "layers.0." in name}, path)


def norm_of_missing(seed):
    torch.manual_seed(seed)
    model = PeftModel.from_pretrained(LlamaForCausalLM(config), "adapter")
    return float(model.base_model.model.model.layers[1].self_attn.q_proj.get_delta_weight("default").norm())


norms = [norm_of_missing(seed) for seed in (1, 2)]
print(f"norm of the update of the block that is not in the file: {norms[0]:.3f}, then {norms[1]:.3f}")
assert min(norms) > 0.1 and abs(norms[0] - norms[1]) > 1e-4, "the behaviour has changed"
PY
