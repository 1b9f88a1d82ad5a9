#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, on a CPU.
# Every config takes `per_layer_config`, documented as overrides of single layers, and checks and writes its key `skip` for parts to leave out.
# LlamaForCausalLM builds every attention all the same where one is skipped, in silence, and cannot be built where a layer's size differs.
# Output seen: skip: heterogeneous True, attention parts built 3 of 3; intermediate_size: AmbiguousGlobalPerLayerAttributeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
skipping = LlamaConfig(**SIZES, per_layer_config={1: {"skip": ["self_attn"]}})
skipping.save_pretrained("skipping")
skipping = LlamaConfig.from_pretrained("skipping")
built = sum("self_attn.q_proj" in name for name, _ in LlamaForCausalLM(skipping).named_parameters())
try:
    LlamaForCausalLM(LlamaConfig(**SIZES, per_layer_config={1: {"intermediate_size": 48}}))
    sized = "built"
except Exception as error:
    sized = type(error).__name__
print(f"skip: heterogeneous {skipping.is_heterogeneous}, attention parts built {built} of 3; intermediate_size: {sized}")
assert skipping.is_heterogeneous and built == 3, "the behaviour has changed"
assert sized == "AmbiguousGlobalPerLayerAttributeError", "the behaviour has changed"
PY
