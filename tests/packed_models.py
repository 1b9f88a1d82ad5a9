"""Folders as AWQ and GPTQ tools write them, made from a plain one. Codes are packed here one by one, not by what reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
BLOCKS = "model.layers."
CONFIGS: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False},
}


def awq_packed(codes: torch.Tensor) -> torch.Tensor:
    """Eight codes of four bits an integer, over the last dimension, in the order of AutoAWQ's GEMM."""
    packed = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
    for column in range(packed.shape[1]):
        for position, offset in enumerate(AWQ_COLUMNS):
            packed[:, column] |= codes[:, column * 8 + offset].long() << (4 * position)
    return as_int32(packed)


def gptq_packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes over the last dimension, the first in the lowest bits."""
    count = 32 // bits
    packed = torch.zeros(codes.shape[0], codes.shape[1] // count, dtype=torch.int64)
    for column in range(packed.shape[1]):
        for position in range(count):
            packed[:, column] |= codes[:, column * count + position].long() << (bits * position)
    return as_int32(packed)


def as_int32(packed: torch.Tensor) -> torch.Tensor:
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def packed_folder(
    plain: Path, folder: Path, method: str, group_size: int = 32, **settings: Any
) -> dict[str, torch.Tensor]:
    """Write `plain` with its blocks' matrices packed by a method; return the matrices that the codes stand for, in float16, by name."""
    shutil.copytree(plain, folder)
    tensors = load_file(plain / "model.safetensors")
    meant: dict[str, torch.Tensor] = {}
    for name in [name for name in tensors if name.startswith(BLOCKS) and tensors[name].ndim == 2]:
        module, weight = name.removesuffix(".weight"), tensors.pop(name).float()
        blocks = weight.unflatten(1, (-1, group_size))
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        steps = ((high - low) / 15).half().float()
        zeros = (-low / steps).round().clamp(0, 15)
        codes = (blocks / steps[..., None] + zeros[..., None]).round().clamp(0, 15)
        meant[name] = ((codes - zeros[..., None]) * steps[..., None]).flatten(1).half()
        by_input, zeros_by_input = codes.flatten(1).T, zeros.T
        tensors[f"{module}.scales"] = steps.T.half().contiguous()
        if method == "awq":
            tensors[f"{module}.qweight"], tensors[f"{module}.qzeros"] = awq_packed(by_input), awq_packed(zeros_by_input)
            continue
        tensors[f"{module}.qweight"] = gptq_packed(by_input.T, 4).T.contiguous()
        tensors[f"{module}.qzeros"] = gptq_packed((zeros_by_input - 1) % 16, 4)
        tensors[f"{module}.g_idx"] = (torch.arange(weight.shape[1]) // group_size).int()
        tensors[f"{module}.bias"] = torch.zeros(len(weight), dtype=torch.float16)  # as AutoGPTQ does, asked or not
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": CONFIGS[method] | {"group_size": group_size} | settings, "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    return meant
