#!/usr/bin/env bash
# transformers 5.23.0, compressed-tensors 0.20.0, torch 2.13.0.
# A folder of compressed-tensors may pack some matrices in 4 bits and others in 8, each in a config group with its own targets. Loaded as it is,
# each is unpacked by its own group. Loaded with CompressedTensorsConfig(dequantize=True), which is for training and saving, every matrix is
# unpacked by the first group: those of the other group come out as other numbers, with no error and no warning.
# Output seen: as it is: 4 bits True, 8 bits True; dequantize=True: 4 bits True, 8 bits False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2> errors.txt
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4)
model = LlamaForCausalLM(LlamaConfig(**sizes, dtype="float32"))
groups = {}
for name, bits, target in (("group_0", 4, "re:.*self_attn.*_proj$"), ("group_1", 8, "re:.*mlp.*_proj$")):
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=32)
    groups[name] = QuantizationScheme(targets=[target], weights=weights)
apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
meant = {}
for name, module in model.named_modules():
    if not hasattr(module, "weight_scale"):
        continue
    half = 2 ** (module.quantization_scheme.weights.num_bits - 1)
    parts = module.weight.data.unflatten(1, (-1, 32))
    scale = parts.abs().amax(-1) / (half - 1)
    module.weight_scale.data.copy_(scale)
    meant[name] = ((parts / scale[..., None]).round() * scale[..., None]).flatten(1)
compressor = ModelCompressor.from_pretrained_model(model)
compressor.compress_model(model)
model.save_pretrained("made")
compressor.update_config("made")
seen = []
for options in ({}, {"quantization_config": CompressedTensorsConfig(dequantize=True)}):
    loaded = AutoModelForCausalLM.from_pretrained("made", dtype=torch.float32, **options)
    loaded(input_ids=torch.tensor([[1, 2, 3]]))
    right = [
        torch.allclose(loaded.get_submodule(name).weight, meant[name], atol=1e-6)
        for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj")
    ]
    seen.append(right)
    print(f"{'dequantize=True' if options else 'as it is'}: 4 bits {right[0]}, 8 bits {right[1]}")
assert seen == [[True, True], [True, False]], "the behaviour has changed"
PY
