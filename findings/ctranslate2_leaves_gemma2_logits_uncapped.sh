#!/usr/bin/env bash
# ctranslate2 4.8.5, transformers 5.23.0, torch 2.13.0.
# The converter takes a Gemma 2, whose config caps the final logits, and what it writes has no cap: `forward_batch` gives the logits before
# c * tanh(x / c). Greedy text is the same, since a cap keeps the order; probabilities, and what is sampled or scored by them, are others.
# Output seen: torch's largest logit 4.87 under a cap of 5, CTranslate2's 10.86; capped here they differ by 0.00000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 ctranslate2==4.8.5 numpy==2.4.6 setuptools
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

CAP, IDS = 5.0, [5, 6, 7, 8, 9]
words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(61))])}
inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>")
config = Gemma2Config(
    vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=128, query_pre_attn_scalar=16, final_logit_softcapping=CAP, attn_logit_softcapping=None,
    initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
torch.manual_seed(0)
model = Gemma2ForCausalLM(config).eval()
model.save_pretrained("model")
tokenizer.save_pretrained("model")
TransformersConverter("model").convert("converted", quantization="float32")
with torch.no_grad():
    expected = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
given = np.array(ctranslate2.Generator("converted", device="cpu").forward_batch([IDS]))[0]
difference = np.abs(CAP * np.tanh(given / CAP) - expected).max()
print(f"torch's largest logit {np.abs(expected).max():.2f} under a cap of {CAP:g}, CTranslate2's {np.abs(given).max():.2f}; capped here they differ by {difference:.5f}")
assert np.abs(given).max() > CAP >= np.abs(expected).max() and difference < 1e-3, "the behaviour has changed"
PY
