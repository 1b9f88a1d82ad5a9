"""Folders whose weights others packed, by AWQ, GPTQ or compressed-tensors. They are written again as plain floats, for every stage."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.quantize.packed_codes import GPTQ_BITS, awq_weight, gptq_weight
from attar.stages.artifacts.model.folder import unquantized_skeleton, without_bars
from attar.stages.artifacts.model.load_report import one_line, read_model
from attar.stages.artifacts.model.safe_folder import read_object, refuse_unsafe
from attar.stages.artifacts.model.tensor_files import (
    WEIGHTS,
    TensorInfo,
    plan_shards,
    read_tensor,
    shard_names,
    tensor_infos,
    write_index,
    write_shard,
)
from attar.stages.runtime.progress import bar, note

# As transformers cuts what it saves.
MAX_SHARD_BYTES = 50 * 10**9
QWEIGHT = ".qweight"
# What a packed matrix consists of, besides its bias.
PARTS = (QWEIGHT, ".qzeros", ".scales", ".g_idx")
COMPRESSED = "compressed-tensors"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def plain_folder(folder: Path, scratch: Path) -> Path:
    """Return the folder, or one in `scratch` with its packed matrices as floats of the dtype that its config names.

    Raises ValueError for an unsafe folder, and for packed weights that are of another form, damaged, or not finite.
    """
    refuse_unsafe(folder)
    config = read_object(folder / "config.json")
    packing = config.get("quantization_config")
    method = packing.get("quant_method") if isinstance(packing, dict) else None
    if method not in (*FORMS, COMPRESSED) or not isinstance(packing, dict):
        return folder
    scratch.mkdir(parents=True, exist_ok=True)
    if method == COMPRESSED:
        return _read_compressed(folder, packing, scratch)
    form = FORMS[method](folder, packing)
    dtype = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype") or "float16"), torch.float16)
    num_matrices = _write(folder, form, dtype, scratch)
    plain = {name: value for name, value in config.items() if name not in ("quantization_config", "torch_dtype")}
    (scratch / "config.json").write_text(json.dumps(plain | {"dtype": str(dtype).removeprefix("torch.")}))
    if (folder / "generation_config.json").exists():
        shutil.copy2(folder / "generation_config.json", scratch / "generation_config.json")
    note(f"{form.name}: {num_matrices} packed matrices dequantized to {str(dtype).removeprefix('torch.')}")
    return scratch


@dataclass(frozen=True)
class PackedForm:
    """How a folder's matrices are packed. Its name for people, the matrix of a module's parts, and that matrix' shape (N, K)."""

    name: str
    weight: Callable[[Mapping[str, Tensor]], Tensor]
    shape: Callable[[Mapping[str, TensorInfo]], tuple[int, int]]


def _awq(folder: Path, packing: Mapping[str, Any]) -> PackedForm:
    _accept(folder, packing, "bits", (4,), packing.get("w_bit"))
    _accept(folder, packing, "version", ("gemm",))
    _accept(folder, packing, "zero_point", (True,))
    return PackedForm(
        f"AWQ, 4 bits in groups of {packing.get('group_size', packing.get('q_group_size'))}",
        lambda parts: awq_weight(parts[".qweight"], parts[".qzeros"], parts[".scales"]),
        lambda infos: (infos[".scales"].shape[1], infos[".qweight"].shape[0]),
    )


def _gptq(folder: Path, packing: Mapping[str, Any]) -> PackedForm:
    bits = _accept(folder, packing, "bits", GPTQ_BITS)
    layout = _accept(folder, packing, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")

    def weight(parts: Mapping[str, Tensor]) -> Tensor:
        num_inputs, num_groups = len(parts[".qweight"]) * 32 // bits, len(parts[".scales"])
        in_order = torch.arange(num_inputs) // -(-num_inputs // num_groups)
        return gptq_weight(
            parts[".qweight"],
            parts[".qzeros"],
            parts[".scales"],
            parts.get(".g_idx", in_order),
            bits=bits,
            zeros_lack_one=layout == "gptq",
        )

    return PackedForm(
        f"GPTQ, {bits} bits in groups of {packing.get('group_size')}",
        weight,
        lambda infos: (infos[".qweight"].shape[1], infos[".qweight"].shape[0] * 32 // bits),
    )


FORMS: dict[str, Callable[[Path, Mapping[str, Any]], PackedForm]] = {"awq": _awq, "gptq": _gptq}


def _read_compressed(folder: Path, packing: Mapping[str, Any], scratch: Path) -> Path:
    """Let transformers dequantize a folder of compressed-tensors, and write what it read."""
    if importlib.util.find_spec("compressed_tensors") is None:
        raise ValueError(
            f"{folder} is packed by {COMPRESSED}, which is not installed: pip install 'attar[compressed-tensors]'"
        )
    groups = packing.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        has = len(groups) if isinstance(groups, dict) else "no"
        raise ValueError(
            f"{folder}: quantization_config has {has} config_groups; accepted: 1, all matrices packed alike"
        )
    from transformers import CompressedTensorsConfig  # a second that a plan need not wait for

    with warnings.catch_warnings(), without_bars():
        warnings.simplefilter("ignore")  # that the folder's own settings are used, as is meant
        model = read_model(folder, "auto", quantization_config=CompressedTensorsConfig(dequantize=True))
    model._weight_conversions = None  # type: ignore[assignment] - they are of the packed names
    model.save_pretrained(scratch, safe_serialization=True)
    note(f"{COMPRESSED}, {packing.get('format')}: dequantized to {str(model.dtype).removeprefix('torch.')}")
    return scratch


def _accept(folder: Path, packing: Mapping[str, Any], name: str, accepted: tuple[Any, ...], default: Any = None) -> Any:
    """Return a setting of a folder's quantization_config. Raises ValueError unless it is one of those accepted."""
    value = packing.get(name, accepted[0] if default is None else default)
    value = value.lower() if isinstance(value, str) else value
    if value not in accepted:
        raise ValueError(
            f"{folder}: quantization_config says {name} {value!r}; accepted of {packing['quant_method']}: "
            f"{', '.join(map(str, accepted))}"
        )
    return value


def _write(folder: Path, form: PackedForm, dtype: torch.dtype, target: Path) -> int:
    """Write every tensor, one in memory at a time. Return how many matrices were packed."""
    stored = tensor_infos(folder)
    modules = sorted(name.removesuffix(QWEIGHT) for name in stored if name.endswith(QWEIGHT))
    if not modules:
        raise ValueError(f"{folder}: quantization_config says {form.name}, but no tensor is named like *{QWEIGHT}")
    packed = {module: {end: stored[module + end] for end in PARTS if module + end in stored} for module in modules}
    infos = {
        f"{module}.weight": TensorInfo(_shape(folder, module, form, packed[module]), dtype, target)
        for module in modules
    }
    taken = {module + end for module in modules for end in PARTS}
    known = unquantized_skeleton(folder).state_dict().keys()
    infos |= {
        name: info
        for name, info in stored.items()
        if name not in taken and (name in known or not _is_empty_bias(name, info, packed))
    }
    counter = bar("dequantizing", len(infos), "tensors")

    def elements(name: str) -> Iterable[Tensor]:
        module = name.removesuffix(".weight")
        if module not in packed:
            yield read_tensor(name, stored[name])
            return
        parts = {end: read_tensor(module + end, info) for end, info in packed[module].items()}
        try:
            weight = form.weight(parts)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{folder}: the parts of {module} do not fit together: {one_line(error)}") from error
        if not bool(torch.isfinite(weight.to(dtype)).all()):
            raise ValueError(f"{folder}: {module} is not finite in {str(dtype).removeprefix('torch.')}; refused")
        yield weight

    shards = plan_shards(infos, MAX_SHARD_BYTES)
    for file, names in zip(shard_names(len(shards)), shards, strict=True):
        write_shard(target / file, {name: infos[name] for name in names}, elements, on_written=counter.advance)
    write_index(target, shards, infos)
    assert (target / WEIGHTS).exists() or len(shards) > 1
    return len(modules)


def _shape(folder: Path, module: str, form: PackedForm, infos: Mapping[str, TensorInfo]) -> tuple[int, int]:
    missing = [end for end in PARTS[:3] if end not in infos]
    if missing or any(len(infos[end].shape) != 2 for end in PARTS[:3]):
        raise ValueError(
            f"{folder}: {module} is not packed as {form.name}: {missing[0] if missing else 'a part'} is missing or no matrix"
        )
    return form.shape(infos)


def _is_empty_bias(name: str, info: TensorInfo, packed: Mapping[str, Any]) -> bool:
    """Say whether a tensor is a bias of zeros that a packer gave a matrix. AutoGPTQ does, where the model has none."""
    return name.endswith(".bias") and name.removesuffix(".bias") in packed and not bool(read_tensor(name, info).any())
