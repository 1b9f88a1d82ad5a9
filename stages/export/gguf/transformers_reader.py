"""A GGUF file through transformers' own reader, which shares no code with the writer, into a model of the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.stages.artifacts.gguf.header import Architecture
from attar.stages.artifacts.model.folder import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Header and config agree as far as a float32 holds a number.
RELATIVE_TOLERANCE = 1e-6
FILE_FAMILIES = {"mistral": "llama"}


def reads_family(architecture: Architecture) -> bool:
    """Say whether transformers reads GGUF files of a family. Of those with experts it reads Qwen3's."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES  # seconds to import

    arch = architecture.family.arch
    if "expert_count" in architecture.header:
        return arch == "qwen3moe"
    return arch in GGUF_SUPPORTED_ARCHITECTURES


def read_into_model(path: Path, folder: Path) -> PreTrainedModel:
    """Return the model of a folder with every weight taken from a GGUF file. Raises ValueError where a weight or a size of the header is another."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint  # seconds to import

    model = load_model(folder, torch.float32)
    # its table of names goes by the families of files, of which Mistral's is Llama's
    family = FILE_FAMILIES.get(model.config.model_type, model.config.model_type)
    model.config.model_type = family  # type: ignore[misc] - of this copy alone
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    _check_header(read["config"], model.config)
    weights = dict(model.named_parameters())  # what is tied once
    for name, tensor in read["tensors"].items():
        weight = weights.pop(name, None)
        if weight is None:
            continue  # a head that is the embedding
        if weight.shape != tensor.shape:
            raise ValueError(
                f"{path.name}: transformers reads {name} as {tuple(tensor.shape)}, not {tuple(weight.shape)}"
            )
        weight.data.copy_(tensor)
    if weights:
        raise ValueError(f"{path.name}: transformers finds no {next(iter(weights))} in it")
    return model


def _check_header(header: Mapping[str, Any], config: Any) -> None:
    """Compare what transformers reads of the header with the config."""
    rope = dict(config.rope_parameters or {})
    expected = {**config.to_dict(), "rope_theta": rope.get("full_attention", rope).get("rope_theta")}
    compared = {name: value for name, value in header.items() if isinstance(value, int | float)}
    for name, value in compared.items():
        held = expected.get(name)
        if held is None or name in ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"):
            continue
        if not math.isclose(float(value), float(held), rel_tol=RELATIVE_TOLERANCE):
            raise ValueError(f"the header says {name} {value}, the model's config {held}")
