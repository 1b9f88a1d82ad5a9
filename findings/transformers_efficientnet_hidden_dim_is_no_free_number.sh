#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, on a CPU.
# EfficientNetConfig has `hidden_dim` for the width before the head, and `in_channels[0]` for what the first block reads. A net is built whatever they
# say, and runs only where they are what `width_coefficient` makes of 1280 and of 32: the top and the stem read nothing else.
# Output seen: hidden_dim 640: built, RuntimeError; in_channels[0] 16: built, RuntimeError; width_coefficient 0.5 with both: (1, 5)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from transformers import EfficientNetConfig, EfficientNetForImageClassification

SIZES = {"depth_coefficient": 1.0, "image_size": 32, "num_labels": 5, "depth_divisor": 1, "width_coefficient": 1.0, "hidden_dim": 1280}
STAGE = {"out_channels": [16], "kernel_sizes": [3], "strides": [1], "num_block_repeats": [1], "expand_ratios": [1]}


def tried(**changes):
    net = EfficientNetForImageClassification(EfficientNetConfig(**{**SIZES, **STAGE, "in_channels": [32], **changes})).eval()
    try:
        return tuple(net(torch.zeros(1, 3, 32, 32)).logits.shape)
    except Exception as error:
        return f"built, {type(error).__name__}"


top, stem = tried(hidden_dim=640), tried(in_channels=[16])
half = tried(width_coefficient=0.5, hidden_dim=640, in_channels=[32])
print(f"hidden_dim 640: {top}; in_channels[0] 16: {stem}; width_coefficient 0.5 with both: {half}")
assert top == stem == "built, RuntimeError" and half == (1, 5), "the behaviour has changed"
PY
