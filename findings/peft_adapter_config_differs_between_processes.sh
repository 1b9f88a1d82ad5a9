#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0, transformers 5.23.0.
# `target_modules` is a set, and `save_pretrained` writes it in the order of Python's string hashes, which change from process to process: the
# same training gives the same weights and another adapter_config.json. A store that addresses folders by their bytes sees two adapters.
# Output seen: under two hash seeds two orders of the same seven names
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
cat > save.py <<'PY'
import json

from peft import LoraConfig

names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LoraConfig(r=4, target_modules=names).save_pretrained("adapter")
print(json.load(open("adapter/adapter_config.json"))["target_modules"])
PY
first=$(PYTHONHASHSEED=1 venv/bin/python -W ignore save.py)
second=$(PYTHONHASHSEED=2 venv/bin/python -W ignore save.py)
echo "$first"
echo "$second"
[ "$first" != "$second" ] || { echo "the behaviour has changed"; exit 1; }
