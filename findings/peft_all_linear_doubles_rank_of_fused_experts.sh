#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# `target_modules="all-linear"` with r=4 on a Mixtral, whose experts are fused 3-D parameters in transformers 5 and no linear layers: PEFT
# adapts the experts and the router too, and gives `gate_up_proj` twice the rank that was asked for.
# Output seen: targets besides the four of attention: down_proj, gate.weight, gate_up_proj; rank an expert: gate_up_proj 8, down_proj 4 of 4 asked
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM

config = MixtralConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_local_experts=4,
    num_experts_per_tok=2,
)
model = get_peft_model(MixtralForCausalLM(config), LoraConfig(r=4, target_modules="all-linear"))
targets = sorted(model.peft_config["default"].target_parameters)
shapes = {name: tuple(value.shape) for name, value in model.named_parameters() if "experts" in name and "lora_A" in name}
ranks = sorted(shape[0] // config.num_local_experts for shape in shapes.values())
print(f"parameters adapted besides attention's matrices: {targets}; ranks an expert: {ranks}, asked: 4")
assert targets == ["down_proj", "gate.weight", "gate_up_proj"] and ranks == [4, 8], "the behaviour has changed"
PY
