"""Prove that a written model is what was made. It loads whole in plain transformers, speaks as in memory, decodes alike with a cache.

Costs one load of the written model and ten forward passes over 3 texts: two of 16 and 23 tokens, eight with a cache.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from attar.compressors.measure.same_logits import (
    NUM_DECODED_TOKENS,
    OTHER_ORDER,
    SAME_KERNELS,
    cache_difference,
    difference,
    probe_logits,
)
from attar.stages.artifacts.model.folder import quiet_transformers
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.paged import Pages, load_paged
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
# What a loading report calls a tensor that is not where it should be.
FAULTS = {"missing_keys": "is missing", "unexpected_keys": "is not the model's", "mismatched_keys": "has another shape"}
HALF = (torch.bfloat16, torch.float16)


def kept_logits(model: PreTrainedModel, what: str) -> Tensor:
    """Return the logits of a model in memory on the probe. Raises ValueError in one line when it does not run."""
    return _run(lambda: probe_logits(model), f"{what}: {type(model).__name__} does not run")


def check_kept(model: PreTrainedModel, expected: Tensor, what: str) -> None:
    """Raise ValueError unless a model cut in memory speaks as its kept parts did by hand."""
    error = difference(expected, kept_logits(model, what))
    if not error <= OTHER_ORDER.get(model.dtype, 5e-2):
        raise ValueError(
            f"{what}: {type(model).__name__} computes something else than its kept parts, {error:.2g} of the largest logit apart; "
            "its family needs what was removed"
        )


def prove_written(
    folder: Path,
    expected: Tensor,
    what: str,
    device: torch.device,
    tolerances: Mapping[torch.dtype, float] = SAME_KERNELS,
    pages: Pages | None = None,
) -> None:
    """Load a written model as anyone would and hold it to `expected`. These are the logits in memory on the probe.

    Free that model before: then one copy is in memory, or with `pages` its blocks in turn.
    Raises ValueError in one line that names the difference.
    """
    give_back()
    model = load_whole(folder, what, device, pages=pages)
    family = type(model).__name__
    error = difference(expected, kept_logits(model, what))
    if not error <= tolerances.get(model.dtype, 1e-2):
        raise ValueError(
            f"{what}: the written {family} speaks otherwise than the model in memory, {error:.2g} of the largest logit apart"
        )
    cached = check_cache(
        model, folder, what, device, {name: max(OTHER_ORDER[name], tolerances[name]) for name in OTHER_ORDER}, pages
    )
    metric("proof_logit_error", error)
    metric("proof_cache_error", cached)
    note(
        f"proved: the written model loads whole, its logits are the kept parts' to {error:.1e}, and {NUM_DECODED_TOKENS} tokens are "
        "the same with and without a cache"
    )


def load_whole(
    folder: Path, what: str, device: torch.device, dtype: torch.dtype | str = "auto", pages: Pages | None = None
) -> PreTrainedModel:
    """Load a folder by plain transformers. With `pages` they compare its tensors, and blocks are read one at a time.

    Raises ValueError with the first names when a tensor is missing, unknown or of another shape.
    """
    import transformers  # a second that a plan need not wait for

    if pages is not None:
        return _run(lambda: load_paged(folder, dtype, device, pages), f"{what}: the written folder does not load")
    quiet_transformers()
    is_placed = "quantization_config" in json.loads((folder / "config.json").read_text())
    model, report = _run(  # type: ignore[misc] - a pair, by output_loading_info
        lambda: transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            device_map={"": device} if is_placed else None,
        ),
        f"{what}: the written folder does not load",
    )
    for key, fault in FAULTS.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in report.get(key) or ())
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{what}: {names[0]}{more} {fault} in the written {type(model).__name__} as others load it"
            )
    return model.eval() if is_placed else model.to(device).eval()  # type: ignore[arg-type]


def check_cache(
    model: PreTrainedModel,
    folder: Path,
    what: str,
    device: torch.device,
    tolerances: Mapping[torch.dtype, float] = OTHER_ORDER,
    pages: Pages | None = None,
) -> float:
    """Return how far the cached logits are apart, as a share of the largest. Raises ValueError when that is more than another order gives.

    Half precision may send a token to another expert, which is no fault of the cache: float32 decides then.
    """
    refusal = f"{what}: the written {type(model).__name__} does not decode"
    dtype, error = model.dtype, _run(lambda: cache_difference(model), refusal)
    if not error <= tolerances.get(dtype, 5e-2) and dtype in HALF:
        del model
        gc.collect()
        dtype, whole = torch.float32, load_whole(folder, what, device, torch.float32, pages)
        error = _run(lambda: cache_difference(whole), refusal)
    if not error <= tolerances.get(dtype, 5e-2):
        raise ValueError(
            f"{what}: the written model decodes otherwise with a KV cache than without, {error:.2g} of the largest logit apart; "
            "its family is not taken"
        )
    return error


def _run(work: Callable[[], T], refusal: str) -> T:
    """Return what `work` gives; what a foreign model class may raise becomes one line, except for want of memory."""
    try:
        return work()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{refusal}: {one_line(error)}") from error
