"""Load a model's weights, all of them or none. What is missing, unexpected, of another shape or not finite is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.weight_files import named, stored_dtype, stored_tensors

if TYPE_CHECKING:
    import transformers

# What torch.compile, FSDP and activation checkpointing put into a tensor's name, at any depth.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# transformers follows an adapter_config.json beside a model, and the base path in it, unless it is told to look elsewhere.
NO_ADAPTER = {"subfolder": "no-adapter-is-read"}
BLOCK_NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
MAX_REASON_CHARS = 300


def read_model(
    folder: Path, dtype: torch.dtype | str, strip_from_names: Sequence[str] = (), **options: Any
) -> transformers.PreTrainedModel:
    """Load a safe folder's model. Raises ValueError, in one line, unless its weights are those that its config describes.

    With `auto` and no dtype in the config it has the one that rounds nothing. `strip_from_names` is what a wrapper left in the names.
    """
    stored_tensors(folder)  # first: whole files, of which there is one choice
    model, report = _read_causal(folder, dtype_of(folder, dtype), strip_from_names, **options)
    if problems := _problems(report):
        raise ValueError(
            f"{folder}: the weights are not the model that config.json describes: {'; '.join(problems)}"
            f"{_blocks(folder, model)}{_cure(folder, report, strip_from_names)}"
        )
    _refuse_half_tied(folder, model)
    if "quantization_config" not in read_object(folder / "config.json"):
        model._weight_conversions = None  # type: ignore[assignment] - else it is saved under the names it had, a wrapper's too
    return model


def read_skeleton(folder: Path, strip_from_names: Sequence[str] = ()) -> transformers.PreTrainedModel:
    """Return the model without memory for its weights. Raises ValueError as `read_model` does, from the headers alone."""
    return read_model(folder, "auto", strip_from_names, device_map="meta")


def refuse_not_finite(name: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the first of a model's tensors that hold NaN or an infinity."""
    floats = {key: tensor for key, tensor in tensors.items() if _is_checkable(tensor)}
    if broken := [key for key, tensor in floats.items() if not _is_finite(tensor)]:
        dtype = floats[broken[0]].dtype
        raise ValueError(f"{name}: NaN or infinite numbers in {named(broken, 'tensors')} ({str(dtype)[6:]}); refused")


def one_line(error: BaseException) -> str:
    """Return what an exception says as one line of bounded length."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]} ..."


def refuse_report(name: str | Path, report: Mapping[str, Any]) -> None:
    """Raise ValueError when transformers reports that it made a tensor up or left one out."""
    if problems := _problems(report):
        raise ValueError(f"{name}: the weights are not the model that its config describes: {'; '.join(problems)}")


def read_reported(
    folder: Path, dtype: torch.dtype | str, reader: str, **options: Any
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Return a folder's model by transformers' class `reader`, and the report of what was made up or left out.

    Raises ValueError, in one line, where transformers cannot load it.
    """
    import transformers

    try:
        return getattr(transformers, reader).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            adapter_kwargs=dict(NO_ADAPTER),
            ignore_mismatched_sizes=True,  # they are reported then, and refused with the rest
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: transformers cannot load it: {one_line(error)}") from error


def dtype_of(folder: Path, dtype: torch.dtype | str) -> torch.dtype | str:
    """Return the dtype to load a folder in: with `auto` and none in its config, the one that rounds nothing."""
    config = read_object(folder / "config.json")
    if dtype != "auto" or config.get("dtype") or config.get("torch_dtype") or "quantization_config" in config:
        return dtype
    return stored_dtype(folder)[0]


def _read_causal(
    folder: Path, dtype: torch.dtype | str, strip_from_names: Sequence[str], **options: Any
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    renames = _renames(strip_from_names) or None
    return read_reported(folder, dtype, "AutoModelForCausalLM", key_mapping=renames, **options)


def _problems(report: Mapping[str, Any]) -> list[str]:
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    misshapen = sorted(f"{key} {tuple(has)} for {tuple(wants)}" for key, has, wants in report["mismatched_keys"])
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{word} {named(names, 'tensors')}" for word, names in groups.items() if names]
    return problems + [" ".join(str(message).split()) for message in report.get("error_msgs") or []][:1]


def _blocks(folder: Path, model: transformers.PreTrainedModel) -> str:
    numbers = [int(number) for name in stored_tensors(folder) for number in BLOCK_NUMBER.findall(name)[:1]]
    wanted = getattr(model.config, "num_hidden_layers", None)
    has = max(numbers, default=-1) + 1
    return f"; config.json says {wanted} blocks, the files hold {has}" if has and wanted not in (None, has) else ""


def _cure(folder: Path, report: Mapping[str, Any], strip_from_names: Sequence[str]) -> str:
    """Say what would make it load, where that is certain: it was tried."""
    names = sorted(report["unexpected_keys"])
    if any("lora_" in name for name in names):
        return "; it holds an adapter that was not merged: merge it where it was trained"
    missing = set(report["missing_keys"])
    if not names and missing and all(name.endswith(("lm_head.weight", "embed_out.weight")) for name in missing):
        return "; if this head is the embedding's own, set tie_word_embeddings: true in config.json"
    if strip_from_names or not names:
        return ""
    for parts in _candidates(names):
        _, tried = _read_causal(folder, "auto", parts, device_map="meta")
        if not _problems(tried):
            return f"; a wrapper's names, which ingest_model removes with strip_from_names: [{', '.join(parts)}]"
    return ""


def _candidates(names: Sequence[str]) -> list[tuple[str, ...]]:
    wrappers = tuple(part for part in WRAPPERS if any(part in name for name in names))
    first, last = names[0].split("."), names[-1].split(".")  # sorted: what these two share, all do
    shared = [part for part, other in zip(first[:-1], last[:-1], strict=False) if part == other]
    prefixes = [".".join(shared[:count]) + "." for count in range(1, min(len(shared), 3) + 1)]
    candidates = [wrappers, *((prefix,) for prefix in prefixes), *((prefix, *wrappers) for prefix in prefixes)]
    return [parts for parts in dict.fromkeys(candidates) if parts]


def _renames(parts: Sequence[str]) -> dict[str, str]:
    inside = {rf"(^|\.){re.escape(part)}": r"\1" for part in parts if part in WRAPPERS}
    return inside | {rf"^{re.escape(part)}": "" for part in parts if part not in WRAPPERS}


def _refuse_half_tied(folder: Path, model: transformers.PreTrainedModel) -> None:
    """Refuse a config that ties the head to the embedding, beside a file with another head: two models, of which each reader takes one."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    # without memory two equal heads look like two different ones
    if is_tied and head is not None and head.weight is not embedding.weight and not head.weight.is_meta:
        raise ValueError(
            f"{folder}: config.json ties the head to the embedding, but the files hold another head; "
            "if the head is right, set tie_word_embeddings: false in config.json"
        )


def _is_checkable(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and bool(tensor.numel()) and not tensor.is_meta


def _is_finite(tensor: Tensor) -> bool:
    lowest, highest = torch.aminmax(tensor if tensor.itemsize > 1 else tensor.float())
    return bool(lowest.isfinite() & highest.isfinite())
