#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, on a CPU.
# An attention function of one's own, registered by AttentionInterface and AttentionMaskInterface, runs under any name but one with "flash"
# in it: set_attn_implementation then ignores what is registered and looks for a flash attention kernel of that name, on the hub.
# Output seen: own_rows: runs; own_flash_rows: ValueError: Could not find the currently requested flash attention implementation at `own_flash_rows`
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
results = {}
for name in ("own_rows", "own_flash_rows"):
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, sdpa_mask)
    model = LlamaForCausalLM(config)
    try:
        model.set_attn_implementation(name)
        model(input_ids=torch.tensor([[3, 4, 5]]))
        results[name] = "runs"
    except ValueError as error:
        results[name] = f"ValueError: {str(error).split('.')[0]}"
print("; ".join(f"{name}: {result}" for name, result in results.items()))
assert results["own_rows"] == "runs", "the behaviour has changed"
assert "Could not find the currently requested flash attention" in results["own_flash_rows"], "the behaviour has changed"
PY
