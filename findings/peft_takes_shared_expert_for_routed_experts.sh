#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# `target_modules=["q_proj", "shared_experts.up_proj", "shared_experts.gate_proj"]` on a GLM-4.5 names linear layers of the shared expert by
# their path. PEFT reads the endings as the old names of the routed experts: all routed experts get adapters, at twice the rank, and the
# shared expert that was named gets none.
# Output seen: adapted: mlp.experts.gate_up_proj (rank 8 an expert, asked 4), self_attn.q_proj
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

config = Glm4MoeConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    moe_intermediate_size=16,
    n_shared_experts=1,
    first_k_dense_replace=0,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
)
base = Glm4MoeForCausalLM(config)
targets = ["q_proj", "shared_experts.up_proj", "shared_experts.gate_proj"]
model = get_peft_model(base, LoraConfig(r=4, target_modules=targets))
adapted = {
    name.split(".lora_A")[0].removeprefix("base_model.model.model.layers.0."): value.shape[0]
    for name, value in model.named_parameters()
    if "lora_A" in name
}
rank = adapted["mlp.experts"] // config.n_routed_experts
print(f"adapted: mlp.experts.gate_up_proj (rank {rank} an expert, asked 4), self_attn.q_proj")
assert sorted(adapted) == ["mlp.experts", "self_attn.q_proj"] and rank == 8, f"the behaviour has changed: {adapted}"
PY
