#!/usr/bin/env bash
# mlflow 3.17.2, diffusers 0.42.1, peft 0.21.2, torch 2.13.0.
# `mlflow.diffusers` is no flavor of pipelines: `save_model` takes LoRA adapters beside the name of a base model. Given the folder that
# `UNet2DModel.save_pretrained` wrote, a whole net, it keeps it as `adapter_type: lora` without a word: no tensor's name is looked at, and that
# no pipeline takes it shows when somebody loads it. Whole pipelines need an own folder in the version.
# Output seen: flavor lora of ./base; kept config.json, diffusion_pytorch_model.safetensors; LoRA tensors 0 of 126
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 diffusers==0.42.1 peft==0.21.2 torch==2.13.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import mlflow.diffusers
import yaml
from diffusers import UNet2DModel
from safetensors import safe_open

blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=4, **blocks).save_pretrained("net")
mlflow.diffusers.save_model("net", "kept", base_model="./base", pip_requirements=["diffusers"])
flavor = yaml.safe_load(Path("kept/MLmodel").read_text())["flavors"]["diffusers"]
names = sorted(path.name for path in Path("kept/adapter_weights").iterdir())
with safe_open("kept/adapter_weights/diffusion_pytorch_model.safetensors", "pt") as weights:
    tensors = list(weights.keys())
lora = [name for name in tensors if "lora" in name]
print(f"flavor {flavor['adapter_type']} of {flavor['base_model']}; kept {', '.join(names)}; LoRA tensors {len(lora)} of {len(tensors)}")
assert flavor["adapter_type"] == "lora" and not lora and len(tensors) > 50, "the behaviour has changed"
PY
