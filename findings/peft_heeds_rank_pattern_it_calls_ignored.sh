#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# `rank_pattern` for a tensor of `target_parameters`: PEFT warns that the key "did not match any targeted module and was ignored", because it
# looks among targeted modules alone, and gives the tensor that rank all the same.
# Output seen: warned: True; rank an expert: 2, from the pattern 2, from r 4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PY'
import warnings

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
lora = LoraConfig(
    r=4, target_modules=["q_proj"], target_parameters=["experts.down_proj"], rank_pattern={r"experts\.down_proj": 2}
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = get_peft_model(MixtralForCausalLM(config), lora)
is_warned = any("were ignored" in str(warning.message) for warning in caught)
shape = next(value.shape for name, value in model.named_parameters() if "experts" in name and "lora_A" in name)
rank = shape[0] // config.num_local_experts
print(f"warned: {is_warned}; rank an expert: {rank}, from the pattern 2, from r 4")
assert is_warned and rank == 2, "the behaviour has changed"
PY
