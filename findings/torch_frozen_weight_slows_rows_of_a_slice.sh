#!/usr/bin/env bash
# torch 2.13.0 on an x86 CPU with bfloat16 instructions (AVX512-BF16), one thread, under no_grad.
# Freezing a weight can slow a bfloat16 linear layer without bias two hundredfold. Rows of a slice (`states[:, -1:]`, what logits_to_keep=1
# hands to the output head) are one matrix product where the weight needs a gradient; where it needs none they stay a batch of one-row
# products, which run in a plain loop. `.contiguous()` does not help a single text: one row counts as contiguous whatever its strides.
# Two-dimensional rows (`states[:, -1]`) are fast in both. So a model that is loaded and frozen prefills slower than one that is only loaded.
# Output seen, 4 rows of 2048 to 16384: slice 16 ms when the weight needs a gradient, 4794 ms when frozen; two-dimensional 13 and 14 ms
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import time

import torch

if not torch.cpu._is_avx512_bf16_supported():
    raise SystemExit("this processor has no bfloat16 instructions: the behaviour was not looked at on one like it")
torch.set_num_threads(1)
torch.manual_seed(0)
frozen = torch.randn(16384, 2048).bfloat16()
trained = torch.nn.Parameter(frozen.clone())
states = torch.randn(4, 16, 2048).bfloat16()


@torch.no_grad()
def milliseconds(rows, weight):
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        tries.append(1e3 * (time.perf_counter() - start))
    return round(min(tries), 1)


weights = {"needs a gradient": trained, "frozen": frozen}
sliced = {name: milliseconds(states[:, -1:], weight) for name, weight in weights.items()}
flat = {name: milliseconds(states[:, -1], weight) for name, weight in weights.items()}
single = milliseconds(states[:1, -1:].contiguous(), frozen)
print(f"slice {sliced} ms; two-dimensional {flat} ms; one text made contiguous, frozen {single} ms")
assert sliced["frozen"] > 20 * max(sliced["needs a gradient"], *flat.values()), "the behaviour has changed"
assert single > 5 * flat["frozen"], "the behaviour has changed"
PY
