"""Pack rounded matrices into a model and write it as the `compressed-tensors` package lays it out. Its own compressors do the packing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attar.compressors.quantize.rounded import FLOAT8, RoundedMatrix
from attar.stages.artifacts.model.folder import without_bars
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.weight_files import StoredTensor, stored_tensors
from attar.stages.export.formats.schemes import Scheme
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGE = "compressed_tensors"
INSTALL = "pip install 'attar[compressed-tensors]'"
# dtypes of a header that hold packed weights
PACKED = {"I8", "F8_E4M3"}
PACKED_END = ".weight_packed"


def refuse_no_package() -> None:
    """Raise ValueError where the package that writes and reads these folders is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ValueError(f"format compressed_tensors needs the package compressed-tensors: {INSTALL}")


def refuse_packed(folder: Path) -> None:
    """Raise ValueError for a folder whose weights are packed already."""
    packing = read_object(folder / "config.json").get("quantization_config")
    if packing:
        method = packing.get("quant_method") if isinstance(packing, dict) else packing
        raise ValueError(
            f"format.kind is compressed_tensors, but the input is packed already ({method}); accepted: a float model"
        )


@torch.no_grad()
def write_packed(
    model: PreTrainedModel,
    matrices: Mapping[str, RoundedMatrix],
    scheme: Scheme,
    dtype: torch.dtype,
    content: Path,
) -> None:
    """Pack the matrices in place and write the model, which is used up. Its weights are those that the matrices stand for, in float32.

    Codes are packed from float32, since eight bits do not survive a division in bfloat16; scales are stored in `dtype`, as all that
    is not packed.
    """
    from compressed_tensors.compressors import ModelCompressor  # type: ignore[import-not-found] - in an extra
    from compressed_tensors.compressors.base import compress_module  # type: ignore[import-not-found]
    from compressed_tensors.quantization import QuantizationStatus, apply_quantization_config  # type: ignore[import-not-found]

    with without_bars():
        apply_quantization_config(model, _package_config(model, matrices, scheme))
    for name, matrix in matrices.items():
        scales = model.get_submodule(name).weight_scale
        scales.copy_(matrix.scales)  # type: ignore[union-attr, operator]
    compressor = ModelCompressor.from_pretrained_model(model)
    counter = bar("packing", len(matrices), "matrices")
    for name in matrices:
        compress_module(model.get_submodule(name))
        counter.advance()
    assert compressor.quantization_config is not None, "a model with packed matrices has one"
    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    _cast(model, dtype)
    model.save_pretrained(content, safe_serialization=True)
    compressor.update_config(str(content))


def _package_config(model: PreTrainedModel, matrices: Mapping[str, RoundedMatrix], scheme: Scheme) -> Any:
    from compressed_tensors.quantization import (  # type: ignore[import-not-found] - in an extra
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
    )

    group_size = next(iter(matrices.values())).group_size if scheme.is_grouped else None
    number = "float" if scheme.is_float else "int"
    weights = QuantizationArgs(
        num_bits=scheme.bits,
        type=number,  # type: ignore[arg-type]
        symmetric=True,
        strategy="group" if scheme.is_grouped else "channel",  # type: ignore[arg-type]
        group_size=group_size,
    )
    inputs = None
    if scheme.rounds_inputs:
        inputs = QuantizationArgs(num_bits=8, type=number, symmetric=True, strategy="token", dynamic=True)  # type: ignore[arg-type]
    left = [name for name, module in model.named_modules() if type(module) is nn.Linear and name not in matrices]
    group = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs, format=scheme.layout)  # type: ignore[arg-type]
    return QuantizationConfig(config_groups={"group_0": group}, ignore=left)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give what is not packed, and the scales, the dtype of the folder. Float8 codes stay as they are."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != FLOAT8:
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype


def count_packed(folder: Path, bits: int) -> tuple[int, int]:
    """Return (packed weights, bytes of all tensors) of a written folder, from its headers: what is really there."""
    tensors = stored_tensors(folder)
    packed = {name: tensor for name, tensor in tensors.items() if name.endswith(PACKED_END) or tensor.dtype in PACKED}
    num_packed = sum(
        tensor.num_elements * (32 // bits if name.endswith(PACKED_END) else 1) for name, tensor in packed.items()
    )
    return num_packed, sum(map(_num_bytes, tensors.values()))


def _num_bytes(tensor: StoredTensor) -> int:
    digits = "".join(letter for letter in tensor.dtype.split("_")[0] if letter.isdigit())
    return tensor.num_elements * int(digits or 8) // 8
