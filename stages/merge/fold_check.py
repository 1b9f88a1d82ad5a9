"""Prove that a folded adapter is the adapter. The same logits, and other ones than the base's, on a probe of tokens."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from attar.compressors.adapt.lora import patterns_of_experts
from attar.compressors.merge.fold import PREFIX, check_fold
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact
from attar.stages.artifacts.model.folder import load_model
from attar.stages.merge.sources import FoldedAdapter
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric

# Of the largest logit. Two orders of adding the same float32 numbers through 24 blocks came to 1.2e-4 on SmolLM2; a wrong scale
# or a transposed matrix is off by far more.
FOLD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
NUM_PROBE_TOKENS = 32


@torch.inference_mode()
def check_folded_logits(source: FoldedAdapter, adapter: Path) -> None:
    """Compare the folded weights with PEFT's adapter at work, in one copy of the base. Raises ValueError as `check_fold` does."""
    from peft import PeftModel  # half a second at import

    base = load_model(source.base.folder, "auto", pick_device())
    probe = torch.arange(NUM_PROBE_TOKENS, device=base.device)[None] % base.config.vocab_size
    base_logits = base(input_ids=probe, use_cache=False).logits
    with patterns_of_experts():
        wrapped = PeftModel.from_pretrained(base, adapter).eval()
    _refuse_missing_pairs(wrapped, source, adapter)
    adapter_logits = wrapped(input_ids=probe, use_cache=False).logits
    plain = wrapped.unload()  # type: ignore[operator] - PEFT's own, gives the base back without the adapter
    names = {}
    for name, _ in plain.named_parameters():
        with suppress(ValueError):  # of fused experts the files hold parts
            names[source.base.file_name(name)] = name
    for name in source.pairs:
        plain.get_parameter(names[name]).copy_(source.read(name))
    for name in source.experts:
        parameter = plain.get_parameter(name)
        parameter.copy_(parameter.float() + source.expert_update(name).to(parameter.device))
    folded_logits = plain(input_ids=probe, use_cache=False).logits
    tolerance = FOLD_TOLERANCE.get(base.dtype, 5e-2)
    error, change = check_fold(adapter_logits, folded_logits, base_logits, tolerance)
    metric("fold_max_logit_error", error)
    metric("fold_max_logit_change", change)


def _refuse_missing_pairs(wrapped: torch.nn.Module, source: FoldedAdapter, adapter: Path) -> None:
    """Raise ValueError where the adapter's config names a matrix that its file has no pair for.

    PEFT fills such a pair by its config's `init_lora_weights`, which may be random numbers, others at each load.
    """
    adapted = {name: module for name, module in wrapped.named_modules() if getattr(module, "lora_A", None)}
    targets = {
        f"{name.removeprefix(PREFIX).replace('.base_layer', '')}.{getattr(module, 'parameter_name', 'weight')}"
        for name, module in adapted.items()
    }
    plain = targets - source.experts.keys()
    missing = sorted(name for name in plain if source.base.file_name(name) not in source.pairs)
    if missing:
        raise ValueError(
            f"{adapter.name}: the adapter's config names {len(targets)} matrices, its file lacks {len(missing)} of them,"
            f" {missing[0]} for one; train it again, or name only what it holds in target_modules"
        )


def check_learned(student: AdapterArtifact | ModelArtifact) -> None:
    """Raise ValueError for an adapter whose training kept what it began with: folding it would change nothing."""
    if not student.is_whole_model and student.facts.get("best_step") == 0 and student.facts.get("num_steps"):
        raise ValueError(
            f"the training of adapter {student.fingerprint[:12]} never beat its start ({student.facts['num_steps']} steps), so it "
            "holds nothing that was learned; lower its learning_rate, or judge by more rows or another stop_on"
        )
