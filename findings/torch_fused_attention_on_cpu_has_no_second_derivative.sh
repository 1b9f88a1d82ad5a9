#!/usr/bin/env bash
# torch 2.13.0 on a CPU.
# A gradient penalty through attention fails where it is least expected: `scaled_dot_product_attention` takes a fused kernel by default, whose
# first gradient with create_graph=True comes back as if it could be differentiated again (requires_grad is True), and only the backward pass
# of the penalty says that the derivative is not implemented. The same net without attention, or under sdpa_kernel(SDPBackend.MATH), trains.
# Output seen: first gradient requires_grad True; then "derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not
# implemented"; under MATH a finite gradient
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def penalty(context):
    torch.manual_seed(0)
    states = torch.randn(1, 2, 8, 8, requires_grad=True)
    with context:
        output = scaled_dot_product_attention(states, states, states)
    (slope,) = torch.autograd.grad(output.sum(), states, create_graph=True)
    print("first gradient: requires_grad", slope.requires_grad)
    slope.square().sum().backward()
    return float(states.grad.abs().sum())


print("under MATH:", penalty(sdpa_kernel(SDPBackend.MATH)))
try:
    value = penalty(nullcontext())
except RuntimeError as error:
    print(str(error).splitlines()[0])
    assert "for_cpu_backward is not implemented" in str(error), "the behaviour has changed"
else:
    raise SystemExit(f"the behaviour has changed: a second derivative of {value}")
PY
