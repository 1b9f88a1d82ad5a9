"""The gate of `guide`. One pass must be close to two, on held-out questions, at scales never trained on, on a second checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

from attar.compressors.distill.teachers.student import Student
from attar.compressors.guidance.adapters import Scale
from attar.compressors.guidance.gap import Gap, GuidedText, measure_gap
from attar.compressors.models.adapted import is_adapted
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.original_losses import spread
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    import transformers

NAMES = {"seen": "trained scales", "unseen": "a scale never trained on", "second": "the second checkpoint"}


@dataclass(frozen=True)
class GateReport:
    """What was measured, and the fingerprints of the models it was measured on."""

    gaps: dict[str, Gap]
    base: str
    second: str

    def check(self, max_ratio: float) -> None:
        """Raise ValueError naming the first ratio beyond the gate."""
        for name, gap in self.gaps.items():
            if not gap.ratio <= max_ratio:
                raise ValueError(
                    f"one pass is not guidance on {NAMES[name]}: KL {gap.kl_one_pass:.4f} nats a token to two passes, "
                    f"{gap.ratio:.2f} of the plain base's {gap.kl_plain:.4f}; accepted: max_kl_ratio {max_ratio:g}"
                )

    @property
    def bases(self) -> dict[str, float]:
        """The models that the adapters work on, with the ratio measured there."""
        ratios = {self.base: self.gaps["seen"].ratio}
        if self.second:
            ratios[self.second] = self.gaps["second"].ratio
        return ratios

    @property
    def facts(self) -> Facts:
        """The ratios, as facts of the artifact."""
        return {f"kl_ratio_{name}": gap.ratio for name, gap in self.gaps.items()}

    def as_json(self) -> str:
        """Return all numbers as JSON."""
        gaps = {
            name: {**asdict(gap), "ratio": gap.ratio, "reverse_ratio": gap.reverse_ratio}
            for name, gap in self.gaps.items()
        }
        return json.dumps(gaps, indent=1)


def measure_gates(config: GuideConfig, inputs: GuideInputs, student: Student, rows: Sequence[Row]) -> GateReport:
    """Measure every gate there is data for, on the trained student."""
    student.eval()
    unseen = {data.facts.unseen_scale for data in inputs.data} - {0.0}
    parts = {
        "seen": [row for row in rows if row.guidance_scale not in unseen],
        "unseen": [row for row in rows if row.guidance_scale in unseen],
    }
    student_model, guided_at = _switch(student)
    teacher = student_model if inputs.teacher is None else _load(config, inputs.teacher)
    weak = None if inputs.weak is None else _load(config, inputs.weak)
    gaps = {
        name: _gap(config, name, some, (student_model, guided_at, teacher, weak or teacher))
        for name, some in parts.items()
        if some
    }
    if inputs.second is not None:
        second = _load(config, inputs.second)
        student.guidance.attach(second)  # type: ignore[operator]
        gaps["second"] = _gap(config, "second", rows, (second, guided_at, second, weak or second))
    fingerprint = "" if inputs.second is None else inputs.second.fingerprint
    return GateReport(gaps, inputs.model.fingerprint, fingerprint)


Parts: TypeAlias = "tuple[transformers.PreTrainedModel, Callable[[Scale | None], None], transformers.PreTrainedModel, transformers.PreTrainedModel]"


def _gap(config: GuideConfig, name: str, rows: Sequence[Row], parts: Parts) -> Gap:
    student, guided_at, teacher, unguided = parts
    texts = [
        GuidedText(row.prompt_ids, row.unguided_ids, row.answer_ids, row.guidance_scale or 0.0)
        for row in spread(rows, config.num_gate_rows)
    ]
    counter = bar(f"one pass against two: {NAMES[name]}", len(texts), "texts")
    guided_at(None)
    gap = measure_gap(
        texts, student=student, guided_at=guided_at, teacher=teacher, unguided=unguided, on_text=counter.advance
    )
    if gap.kl_plain == 0.0:
        raise ValueError(
            f"guide_data: guidance changes nothing on {NAMES[name]}, so there is no gap to close (their scales: "
            f"{min(text.scale for text in texts):g} to {max(text.scale for text in texts):g}; 1 is no guidance); accepted: a max_scale other than 1"
        )
    for measure, value in {**asdict(gap), "kl_ratio": gap.ratio, "reverse_ratio": gap.reverse_ratio}.items():
        metric(f"{name}_{measure}", value)
    note(
        f"{NAMES[name]}: KL(one pass || two) is {gap.ratio:.3f} of KL(plain || two), "
        f"{gap.reverse_ratio:.3f} the other way round ({gap.kl_one_pass:.4f} and {gap.kl_plain:.4f} nats a token)"
    )
    return gap


def _switch(student: Student) -> tuple[transformers.PreTrainedModel, Callable[[Scale | None], None]]:
    """Return the model, and what sets its scale: a lora is on or off."""
    model = student.model
    if not is_adapted(model):
        return model, student.guidance.set_scale  # type: ignore[return-value]

    def guided_at(scale: Scale | None) -> None:
        if scale is None:
            model.base_model.disable_adapter_layers()  # type: ignore[operator]
        else:
            model.base_model.enable_adapter_layers()  # type: ignore[operator]

    return model, guided_at  # type: ignore[return-value]


def _load(config: GuideConfig, artifact: ModelArtifact) -> transformers.PreTrainedModel:
    device = pick_device()
    return load_model(artifact.path, pick_dtype(config.training.compute.precision, device), device).requires_grad_(
        False
    )
