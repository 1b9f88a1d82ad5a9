#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# `add_weighted_adapter(["a", "b"], [0.5, 0.5], combination_type="linear")` adds the FACTORS, A's and B's each with the root of the weight: the
# product of two sums has the cross terms B_a A_b and B_b A_a in it. It is not the mean of the two updates; for unrelated adapters
# the error is as large as the mean itself. `cat` gives the mean to rounding.
# Output seen: relative distance from the mean of the updates: linear 1.00, cat 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
)
lora = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "init_lora_weights": False}
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(**lora), adapter_name="a")
model.add_adapter("b", LoraConfig(**lora))
layer = model.base_model.model.model.layers[0].self_attn.q_proj
mean = (layer.get_delta_weight("a") + layer.get_delta_weight("b")).detach() / 2


def distance(kind):
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind)
    return float((layer.get_delta_weight(kind).detach() - mean).norm() / mean.norm())


linear, cat = distance("linear"), distance("cat")
print(f"relative distance from the mean of the updates: linear {linear:.2f}, cat {cat:.2f}")
assert linear > 0.5 and cat < 1e-5, "the behaviour has changed"
PY
