"""Prove what `merge_adapters` wrote. The file holds what was made, and on its base PEFT's adapter speaks and decodes as that does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from attar.compressors.measure.same_logits import NUM_DECODED_TOKENS, OTHER_ORDER, cache_difference
from attar.compressors.merge.adapters import Factors
from attar.compressors.merge.fold import adapter_pairs
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.model.folder import load_model
from attar.stages.merge.fold_check import check_folded_logits
from attar.stages.merge.sources import FoldedAdapter, FolderSource, adapter_scale
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
HALF = (torch.bfloat16, torch.float16)


def prove_adapter(folder: Path, merged: Mapping[str, Factors], base: ModelArtifact | None) -> None:
    """Read the written adapter and hold it to `merged`; with its base also by logits and 8 tokens. Raises ValueError in one line.

    The logits are those of the base with the products of the factors added by hand.
    """
    pairs = adapter_pairs(load_file(folder / WEIGHTS))
    for target in sorted(pairs.keys() | merged.keys()):
        same = target in pairs and target in merged and _is_same(pairs[target], merged[target])
        if not same or adapter_scale(folder) != 1.0:
            raise ValueError(f"merge_adapters: {target} in the written file is not what was merged; is the disk sound?")
    if base is None:
        note("the written adapter holds what was merged, to the bit; give the input base to try it on its model")
        return
    check_folded_logits(FoldedAdapter.open(FolderSource(base.path), folder), folder)
    give_back()
    error, dtype = _cached(base, folder, "auto")
    if not error <= OTHER_ORDER.get(dtype, 5e-2) and dtype in HALF:
        # half precision may send a token to another expert, which is no fault of the cache
        error, dtype = _cached(base, folder, torch.float32)
    if not error <= OTHER_ORDER.get(dtype, 5e-2):
        raise ValueError(
            f"merge_adapters: with the written adapter the base decodes otherwise with a KV cache than without, {error:.2g} of the "
            "largest logit apart"
        )
    metric("proof_cache_error", error)
    note(
        f"proved: the written adapter holds what was merged, speaks on its base as that added by hand, and {NUM_DECODED_TOKENS} tokens "
        "are the same with and without a cache"
    )


def _is_same(pair: Any, factors: Factors) -> bool:
    return pair.magnitude is None and torch.equal(pair.down, factors.down) and torch.equal(pair.up, factors.up)


def _cached(base: ModelArtifact, folder: Path, dtype: torch.dtype | str) -> tuple[float, torch.dtype]:
    """Return how far decoding with and without a cache are apart, and the dtype in which they were."""
    from peft import PeftModel  # half a second at import

    wrapped: Any = PeftModel.from_pretrained(load_model(base.path, dtype, pick_device()), folder).eval()
    model: PreTrainedModel = wrapped.get_base_model()  # PEFT's matrices are in it
    return cache_difference(model), model.dtype
