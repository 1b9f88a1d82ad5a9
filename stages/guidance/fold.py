"""Fold guidance adapters into a plain model, where that is exact; what cannot be folded is refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from attar.compressors.guidance.fold import fold_offsets
from attar.compressors.merge.fold import check_fold
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact
from attar.stages.artifacts.guidance_files import check_base, load_guidance
from attar.stages.artifacts.model.folder import save_model
from attar.stages.artifacts.model.proof import kept_logits, prove_written
from attar.stages.runtime.progress import metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the largest logit: a bias is rounded once to the base's dtype, where the adapter's vector was added in its own.
FOLD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
GUIDED_METHODS = ("cross", "offset")


def check_guidance_fold(method: str, guidance_scale: float | None, students: Sequence[Facts]) -> None:
    """Raise ValueError, before anything runs, for guidance adapters that `merge` cannot fold, or a scale that none of them takes."""
    if any(not student for student in students):  # not known yet, before the node that makes it has run
        return
    kinds = [str(student.get("method", "")) for student in students]
    guided = [kind for kind in kinds if kind in GUIDED_METHODS]
    if "cross" in guided:
        raise ValueError(
            "a cross guidance adapter reads the hidden state and cannot be folded; use adapter: offset, or adapter: lora at a fixed "
            "scale, or give it to export, which keeps guidance_scale as an input"
        )
    if guided and method != "fold":
        raise ValueError(f"method {method!r} combines weights; an offset guidance adapter takes method: fold")
    if guided and guidance_scale is None:
        raise ValueError("guidance_scale is missing: an offset guidance adapter is folded at one scale")
    if guidance_scale is not None and not guided:
        raise ValueError(f"guidance_scale is {guidance_scale:g}, but the student is no offset guidance adapter")


@torch.inference_mode()
def folded_guidance(
    base: PreTrainedModel,
    base_artifact: ModelArtifact,
    adapter: AdapterArtifact,
    guidance_scale: float | None,
    content: Path,
) -> ModelArtifact:
    """Write the base with the adapter folded in at one scale; its logits are compared with the adapter's.

    Raises ValueError for an adapter, a scale or a family that cannot be folded, and when the logits differ.
    """
    assert guidance_scale is not None, "check_guidance_fold comes first"
    check_base(adapter, base_artifact)
    adapters = load_guidance(adapter.path, base)
    probe = torch.arange(32, device=base.device)[None] % base.config.vocab_size
    base_logits = base(input_ids=probe, use_cache=False).logits
    handles = adapters.attach(base)
    with adapters.at(guidance_scale):
        guided_logits = base(input_ids=probe, use_cache=False).logits
    for handle in handles:
        handle.remove()
    folded = fold_offsets(base, adapters, guidance_scale)
    folded_logits = folded(input_ids=probe, use_cache=False).logits
    error, change = check_fold(guided_logits, folded_logits, base_logits, FOLD_TOLERANCE.get(base.dtype, 5e-2))
    metric("fold_max_logit_error", error)
    metric("fold_max_logit_change", change)
    note(f"folded guidance at scale {guidance_scale:g} into the attention's output biases")
    expected, device = kept_logits(folded, "merge"), base.device
    artifact = save_model(folded, content, tokenizer_from=base_artifact.path)
    prove_written(artifact.path, expected, "merge", device)
    return artifact
