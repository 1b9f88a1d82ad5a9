#!/usr/bin/env bash
# bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0, torch 2.13.0.
# `BitsAndBytesConfig(load_in_4bit=True)` on a Mixtral: transformers 5 keeps experts as fused 3-D parameters, bitsandbytes replaces linear layers
# alone. The load succeeds, the model says that it is quantized, and the experts, nearly all of it, stay in float32.
# Output seen: 4% of the numbers are in 4 bits; experts: torch.float32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 bitsandbytes==0.50.2 accelerate==1.15.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM
import torch

config = MixtralConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_local_experts=8,
    num_experts_per_tok=2,
)
MixtralForCausalLM(config).save_pretrained("model")
model = AutoModelForCausalLM.from_pretrained("model", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
# two 4-bit numbers in a byte
counts = {name: value.numel() * (2 if value.dtype == torch.uint8 else 1) for name, value in model.named_parameters()}
four_bit = sum(counts[name] for name, value in model.named_parameters() if value.dtype == torch.uint8)
experts = {str(value.dtype) for name, value in model.named_parameters() if "experts" in name}
print(f"{four_bit / sum(counts.values()):.0%} of the numbers are in 4 bits; experts: {', '.join(experts)}; quantized: {model.is_quantized}")
assert four_bit < 0.1 * sum(counts.values()) and experts == {"torch.float32"} and model.is_quantized, "the behaviour has changed"
PY
