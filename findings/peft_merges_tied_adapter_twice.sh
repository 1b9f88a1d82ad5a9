#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# A LoRA on `embed_tokens` and `lm_head` of a tied model with `ensure_weight_tying=True` shares one pair of adapter matrices. While it is an
# adapter each layer adds it once. `merge_and_unload` adds it to the one shared weight TWICE: the merged model is not the adapted one.
# Output seen: change of the shared weight divided by the adapter's own product: 2.00; logits of merged and adapted model differ
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
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
base = LlamaForCausalLM(config).eval()
before = base.lm_head.weight.detach().clone()
lora = LoraConfig(r=4, lora_alpha=4, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True, init_lora_weights=False)
adapted = get_peft_model(base, lora).eval()
head = adapted.base_model.model.lm_head
product = head.get_delta_weight("default").detach().clone()
ids = torch.arange(8)[None]
with torch.no_grad():
    logits = adapted(ids).logits
    merged = adapted.merge_and_unload().eval()
    distance = float((merged(ids).logits - logits).abs().max())
change = merged.lm_head.weight.detach() - before
factor = float((change * product).sum() / (product * product).sum())
print(f"change of the shared weight divided by the adapter's own product: {factor:.2f}; logits up to {distance:.1f} apart")
assert merged.lm_head.weight is merged.model.embed_tokens.weight
assert abs(factor - 2) < 1e-3 and distance > 1, "the behaviour has changed"
PY
