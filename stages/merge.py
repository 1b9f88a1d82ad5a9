"""Stage `merge`: fold an adapter into its base, or combine two students into one model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import field_validator, model_validator
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compressors.catalogue import build, did_you_mean
from compressors.merge.fold import check_fold, fold_adapter, fold_weights
from compressors.merge.slerp import MERGE_METHODS
from registry.artifact import AdapterArtifact, Facts, ModelArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.device import pick_device
from stages.guidance_fold import check_guidance_fold, folded_guidance
from stages.guidance_folder import is_guidance
from stages.model_folder import load_model, save_model
from stages.progress import Bar, bar, metric, note
from stages.training_run import WEIGHTS_FILE

# Of the largest logit. Two orders of adding the same float32 numbers through 24 blocks came to 1.2e-4 on SmolLM2; a wrong scale
# or a transposed matrix is off by far more.
FOLD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class MergeConfig(StageConfig):
    """How the students become one model."""

    method: str = "fold"
    """fold: one adapter into the base. slerp: two students, adapters of the base or whole models."""

    params: dict[str, Any] = {}
    """Parameters of the method; for slerp: t in [0, 1], on (weights or deltas), lerp_above."""

    guidance_scale: float | None = None
    """Scale at which an offset guidance adapter is folded; for that alone."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in ("fold", *MERGE_METHODS):
            raise ValueError(f"unknown method {value!r}.{did_you_mean(value, ['fold', *MERGE_METHODS])}")
        return value

    @model_validator(mode="after")
    def _known_params(self) -> MergeConfig:
        if self.method == "fold" and self.params:
            raise ValueError(f"method 'fold' has no parameters; got {', '.join(self.params)}")
        if self.method != "fold":
            build(MERGE_METHODS, self.method, self.params)
        return self


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """The common base, and the students: adapters trained on it, or models of its shape."""

    base: ModelArtifact
    students: tuple[AdapterArtifact | ModelArtifact, ...]


def _forecast(config: MergeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    num_students, num_accepted = len(inputs["students"]), 1 if config.method == "fold" else 2
    if num_students != num_accepted:
        raise ValueError(f"students: method {config.method!r} takes {num_accepted}, not {num_students}")
    base = inputs["base"][0]
    check_guidance_fold(config.method, config.guidance_scale, inputs["students"])
    for student in inputs["students"]:
        for name in ("vocab_size", "num_blocks"):
            if name in base and name in student and base[name] != student[name]:
                raise ValueError(f"{name} mismatch: base {base[name]}, student {student[name]}")
    num_bytes = 4.0 * float(base.get("num_parameters", 0))
    return Forecast(dict(base), peak_memory_bytes=(2 + num_students) * num_bytes, disk_bytes=num_bytes)


@stage("merge", version=2, forecast=_forecast)
def merge(config: MergeConfig, inputs: MergeInputs, workdir: Path) -> ModelArtifact:
    """Make one plain model of a base and its students.

    Every fold is checked: merged logits equal the adapter's and differ from the base's. Raises ValueError when they do not.
    """
    counter = bar("merging", len(inputs.students) + 1, "steps")
    base = load_model(inputs.base.path, "auto", pick_device())
    check_guidance_fold(config.method, config.guidance_scale, [one.facts for one in inputs.students])
    student = inputs.students[0]
    if isinstance(student, AdapterArtifact) and is_guidance(student.path):
        return folded_guidance(base, inputs.base, student, config.guidance_scale, workdir / "content")
    states = [_student_state(base, inputs.base, student, counter) for student in inputs.students]
    merged = states[0]
    if config.method != "fold":
        method = build(MERGE_METHODS, config.method, config.params)
        merged, branches = method(states[0], states[1], dict(base.state_dict()))
        counts = Counter(branches.values())
        note("tensors by branch: " + ", ".join(f"{branch} {count}" for branch, count in counts.items()))
        for branch, count in counts.items():
            metric(f"num_{branch}_tensors", count)
    base.load_state_dict(merged)
    artifact = save_model(base, workdir / "content", tokenizer_from=inputs.base.path)
    counter.advance()
    return artifact


def _student_state(
    base: PreTrainedModel, base_artifact: ModelArtifact, student: AdapterArtifact | ModelArtifact, counter: Bar
) -> dict[str, Tensor]:
    if isinstance(student, ModelArtifact):
        state = dict(load_model(student.path, base.dtype, base.device).state_dict())
    else:
        trained_on = student.facts["base_fingerprint"]
        if trained_on != base_artifact.fingerprint:
            raise ValueError(f"the adapter was trained on model {str(trained_on)[:12]}, not on the base given here")
        state = _folded(base, base_artifact, student)
    counter.advance()
    return state


def _folded(base: PreTrainedModel, base_artifact: ModelArtifact, adapter: AdapterArtifact) -> dict[str, Tensor]:
    if (adapter.path / WEIGHTS_FILE).exists():
        original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        trained = load_file(adapter.path / WEIGHTS_FILE, device=str(base.device))
        folded = fold_weights(original, trained)
        if all(torch.equal(folded[name], original[name]) for name in trained):
            raise ValueError("folding changed nothing: the trained weights are the base's own")
        return folded
    return _folded_adapter(base, base_artifact, adapter)


@torch.inference_mode()
def _folded_adapter(base: PreTrainedModel, base_artifact: ModelArtifact, adapter: AdapterArtifact) -> dict[str, Tensor]:
    original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    folded = fold_adapter(
        original,
        load_file(adapter.path / "adapter_model.safetensors", device=str(base.device)),
        scale=config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"]),
        is_transposed=any(isinstance(module, Conv1D) for module in base.modules()),
    )
    probe = torch.arange(32, device=base.device)[None] % base.config.vocab_size
    base_logits = base(input_ids=probe, use_cache=False).logits
    # a model of its own: PEFT changes the modules of the one it wraps
    wrapped = PeftModel.from_pretrained(load_model(base_artifact.path, base.dtype, base.device), adapter.path).eval()
    adapter_logits = wrapped(input_ids=probe, use_cache=False).logits
    base.load_state_dict(folded)
    folded_logits = base(input_ids=probe, use_cache=False).logits
    base.load_state_dict(original)
    tolerance = FOLD_TOLERANCE.get(base.dtype, 5e-2)
    error, change = check_fold(adapter_logits, folded_logits, base_logits, tolerance)
    metric("fold_max_logit_error", error)
    metric("fold_max_logit_change", change)
    return folded
