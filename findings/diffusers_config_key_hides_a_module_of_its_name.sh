#!/usr/bin/env bash
# diffusers 0.42.1, torch 2.13.0.
# A key of a net's config hides a module, a parameter or a buffer of the net that has its name: `net.extra` is the config's value, while
# `net.get_submodule` agrees with it and fails, and `named_modules`, `state_dict` and `save_pretrained` still hold the module. Whoever adds a part
# to a `ModelMixin` and notes it in the config under the same name loses it by attribute, with a FutureWarning alone.
# Output seen: before: Linear; after register_to_config(extra=True): bool True; weights kept: ['extra.bias', 'extra.weight']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 diffusers==0.42.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from diffusers import UNet2DModel
from torch import nn

net = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=8, layers_per_block=1,
    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
)
net.add_module("extra", nn.Linear(2, 2))
before = type(net.extra).__name__
net.register_to_config(extra=True)
kept = sorted(name for name in net.state_dict() if name.startswith("extra."))
print(f"before: {before}; after register_to_config(extra=True): {type(net.extra).__name__} {net.extra}; weights kept: {kept}")
assert before == "Linear" and net.extra is True, "the behaviour has changed"
assert kept == ["extra.bias", "extra.weight"], "the behaviour has changed"
assert isinstance(dict(net.named_modules())["extra"], nn.Linear), "the behaviour has changed"
try:
    net.get_submodule("extra")
except AttributeError:
    pass
else:
    raise AssertionError("the behaviour has changed")
PY
