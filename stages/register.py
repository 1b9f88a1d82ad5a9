"""Stage `register`: put the model into the MLflow registry, as candidate, and past the gate as champion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from compressors.catalogue import did_you_mean
from registry.artifact import EvaluationArtifact, Facts, ModelArtifact, OnnxArtifact, ReleaseArtifact
from registry.environment import attar_home, tracking_uri
from registry.fingerprint import digest
from registry.gate import THRESHOLDS, run_gate
from stages.contract import Forecast, StageConfig, stage
from stages.model_folder import load_model, load_tokenizer
from stages.progress import bar, metric, note


class RegisterConfig(StageConfig):
    """The registered name, and what a champion must show."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)
    """Name in the registry: letters, digits, dot, dash, underscore."""

    gate: dict[str, float] = {}
    """Thresholds on candidate divided by baseline: min_accuracy_retention, max_perplexity_ratio, max_decode_latency_ratio,
    max_prefill_latency_ratio, max_size_ratio. Empty: everything passes."""

    champion: Literal["past_gate", "by_decision"] = "past_gate"
    """past_gate: a version that passes the gate is champion at once; by_decision: it stays candidate until someone promotes it."""

    @field_validator("gate")
    @classmethod
    def _known_thresholds(cls, value: dict[str, float]) -> dict[str, float]:
        for name, limit in value.items():
            if name not in THRESHOLDS:
                raise ValueError(f"unknown threshold {name!r}.{did_you_mean(name, THRESHOLDS)}")
            if not limit > 0:
                raise ValueError(f"{name} is {limit}; accepted: above 0")
        return value


@dataclass(frozen=True, kw_only=True)
class RegisterInputs:
    """The model with its evaluation and the original's, and the ONNX graph, with its own evaluation where it is gated."""

    model: ModelArtifact
    evaluation: EvaluationArtifact
    baseline: EvaluationArtifact
    onnx: OnnxArtifact | None = None
    onnx_evaluation: EvaluationArtifact | None = None


def _forecast(config: RegisterConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if inputs.get("onnx_evaluation") and not inputs.get("onnx"):
        raise ValueError("onnx_evaluation without onnx: give the graph that it measured")
    return Forecast({}, disk_bytes=8.0 * float(inputs["model"][0].get("num_parameters", 0)))


@stage(
    "register",
    version=1,
    forecast=_forecast,
    outside=lambda config: tracking_uri(attar_home()),
    is_light=True,
)
def register(config: RegisterConfig, inputs: RegisterInputs, workdir: Path) -> ReleaseArtifact:
    """Register the model with its lineage and metrics; alias `candidate`, and `champion` once every threshold of the gate holds.

    A failed gate is not a failed stage: the version stays candidate and the verdict says why.
    """
    # MLflow takes seconds to import, and checking a recipe needs none of it
    from registry.model_flavor import write_transformers_model
    from registry.model_registry import register_model

    steps = bar("registering", 2, "steps")
    model, tokenizer = load_model(inputs.model.path, "auto"), load_tokenizer(inputs.model.path)
    checks = _verdict(config, inputs)
    has_passed = all(check["has_passed"] for check in checks)
    is_champion = has_passed and config.champion == "past_gate"
    steps.advance()
    registration = register_model(
        config.name,
        _work_key(config, inputs),
        lambda folder: write_transformers_model(
            folder,
            model,
            tokenizer,
            model_folder=inputs.model.path,
            onnx_folder=inputs.onnx.path if inputs.onnx else None,
            metadata={"attar.fingerprint": inputs.model.fingerprint},
        ),
        metrics=_metrics(inputs),
        params={name: str(value) for name, value in inputs.model.facts.items()},
        tags=_tags(inputs, has_passed),
        scratch=workdir,
        is_champion=is_champion,
    )
    steps.advance()
    note(f"registered {config.name} version {registration.version} as {_standing(is_champion, checks)}")
    metric("gate_passed", float(has_passed))
    release = {**asdict(registration), "checks": checks}
    (workdir / "content" / "release.json").write_text(json.dumps(release, indent=1))
    return ReleaseArtifact.at(
        workdir / "content", name=config.name, version=registration.version, is_champion=is_champion
    )


def _verdict(config: RegisterConfig, inputs: RegisterInputs) -> list[dict[str, Any]]:
    """Gate the model on everything, and the ONNX graph on quality and speed where it was measured."""
    baseline = _numbers(inputs.baseline)
    checks = [
        check.as_dict() | {"of": "model"} for check in run_gate(config.gate, _numbers(inputs.evaluation), baseline)
    ]
    if inputs.onnx_evaluation is not None:
        onnx_checks = run_gate(config.gate, _numbers(inputs.onnx_evaluation), baseline)
        checks += [check.as_dict() | {"of": "onnx"} for check in onnx_checks]
    return checks


def _standing(is_champion: bool, checks: list[dict[str, Any]]) -> str:
    if is_champion:
        return "champion"
    return f"candidate; the gate failed: {_failed(checks)}" if _failed(checks) else "candidate"


def _failed(checks: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{check['of']} {check['name']} {check['measured']:.4g}, limit {check['limit']:.4g}"
        for check in checks
        if not check["has_passed"]
    )


def _numbers(evaluation: EvaluationArtifact) -> dict[str, float]:
    return {name: value for name, value in evaluation.facts.items() if isinstance(value, int | float)}


def _metrics(inputs: RegisterInputs) -> dict[str, float]:
    metrics = {f"model/{name}": float(value) for name, value in _numbers(inputs.evaluation).items()}
    if inputs.onnx_evaluation is not None:
        metrics |= {f"onnx/{name}": float(value) for name, value in _numbers(inputs.onnx_evaluation).items()}
    return metrics


def _tags(inputs: RegisterInputs, has_passed: bool) -> dict[str, str]:
    artifacts = {"model": inputs.model, "evaluation": inputs.evaluation, "baseline": inputs.baseline}
    tags = {f"attar.{name}_key": artifact.key for name, artifact in artifacts.items()}
    if inputs.onnx is not None:
        tags["attar.onnx_key"] = inputs.onnx.key
    return tags | {
        "attar.fingerprint": inputs.model.fingerprint,
        "validation_status": "passed" if has_passed else "failed",
    }


def _work_key(config: RegisterConfig, inputs: RegisterInputs) -> str:
    artifacts = [inputs.model, inputs.evaluation, inputs.baseline, inputs.onnx, inputs.onnx_evaluation]
    return digest([config.model_dump(mode="json"), [one.fingerprint if one else "" for one in artifacts]])
