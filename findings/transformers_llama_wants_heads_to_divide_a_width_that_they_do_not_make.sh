#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, on a CPU.
# With `head_dim` given, heads no longer follow from hidden_size: q_proj is hidden_size -> heads * head_dim, whatever hidden_size is.
# LlamaConfig refuses a hidden_size that the heads do not divide all the same; MistralConfig and Qwen3Config take it, and the model runs.
# Output seen: llama refused, mistral runs, qwen3 runs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"vocab_size": 50, "hidden_size": 30, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
results = {}
for family in ("llama", "mistral", "qwen3"):
    try:
        config = AutoConfig.for_model(family, **SIZES, num_key_value_heads=2, head_dim=8)
        logits = AutoModelForCausalLM.from_config(config)(input_ids=torch.arange(5)[None]).logits
        results[family] = "runs" if logits.shape == (1, 5, 50) else "runs otherwise"
    except Exception as error:
        results[family] = "refused" if "not a multiple of the number of attention heads" in str(error) else type(error).__name__
print(", ".join(f"{family} {result}" for family, result in results.items()))
assert results == {"llama": "refused", "mistral": "runs", "qwen3": "runs"}, "the behaviour has changed"
PY
