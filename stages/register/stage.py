"""Stage `register`: put the model into the MLflow registry, as candidate, and past the gate as champion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.artifacts.facts import fact_text
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import (
    Artifact,
    EvaluationArtifact,
    Facts,
    OnnxArtifact,
    ReleaseArtifact,
)
from attar.registry.artifacts.kind_facts import ReleaseFacts
from attar.registry.artifacts.lineage import trace
from attar.registry.artifacts.store import Store
from attar.registry.release.gate import Ratio, run_gate
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.older_form import readers_of
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.register.config import RegisterConfig, RegisterInputs
from attar.stages.register.model_card import write_card
from attar.stages.register.release import Release
from attar.stages.register.release_numbers import measured, number_tags, scan_scores
from attar.stages.runtime.progress import bar, metric, note


def _forecast(config: RegisterConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    graphs, evaluations = inputs.get("onnx", ()), inputs.get("onnx_evaluation", ())
    if len(evaluations) > len(graphs):
        raise ValueError(
            f"onnx_evaluation: {len(evaluations)} of them for {len(graphs)} inputs onnx; give the graph that each measured"
        )
    for name in ("evaluation", "baseline", "onnx_evaluation"):
        if any(facts.get("part") == "choose" for facts in inputs.get(name, ())):
            raise ValueError(
                f"{name} was measured on the rows that choices are made on; accepted: evaluate.part heldout"
            )
    return Forecast(
        {}, disk_bytes=sum(map(stored_bytes, (inputs["model"][0], *graphs)))
    )  # the registry's copy of all forms


@stage(
    "register",
    version=4,
    forecast=_forecast,
    outside=lambda config: tracking_uri(attar_home()),
    is_light=True,
)
def register(config: RegisterConfig, inputs: RegisterInputs, workdir: Path) -> ReleaseArtifact:
    """Register the model with its graphs, card, lineage and figures; alias `candidate`, and `champion` once the gate holds.

    A failed gate is not a failed stage: the version stays candidate and the verdict says why.
    Raises ValueError when an evaluation measured something else than what is registered.
    """
    # MLflow takes seconds to import, and checking a recipe needs none of it
    from attar.registry.release.model_flavor import write_version
    from attar.registry.release.model_registry import register_model

    steps = bar("registering", 2, "steps")
    graphs, evaluations = _graphs(inputs), _evaluations(inputs)
    figures = {form: measured(evaluation) for form, evaluation in evaluations.items()}
    baseline = measured(inputs.baseline)
    ratios = _ratios(inputs, evaluations)
    checks = _verdict(config, figures, baseline, ratios)
    has_passed = _passes(checks)
    is_champion = has_passed and config.champion == "past_gate"
    release = _release(config, inputs, graphs, {"original": baseline, **figures}, checks)
    model, tokenizer = load_model(inputs.model.path, "auto"), load_tokenizer(inputs.model.path)
    steps.advance()
    registration = register_model(
        config.name,
        _work_key(config, inputs),
        lambda folder: write_version(
            folder,
            model,
            tokenizer,
            model_folder=inputs.model.path,
            onnx_folders={name: graph.path for name, graph in graphs.items()},
            card=write_card(release),
            metadata={"attar.fingerprint": inputs.model.fingerprint},
        ),
        metrics={f"{form}/{name}": value for form, some in figures.items() for name, value in some.items()},
        params={name: fact_text(value) for name, value in inputs.model.facts.items()},
        tags={
            **number_tags(figures, baseline, release.scan, ratios),
            **_tags(inputs, graphs, has_passed),
            "license": release.license,
        },
        scratch=workdir,
        is_champion=is_champion,
    )
    steps.advance()
    return _released(config, workdir / "content", asdict(registration), checks, is_champion)


def _released(
    config: RegisterConfig,
    content: Path,
    registration: Mapping[str, Any],
    checks: list[dict[str, Any]],
    is_champion: bool,
) -> ReleaseArtifact:
    version = registration["version"]
    note(f"registered {config.name} version {version} as {_standing(is_champion, checks)}")
    metric("gate_passed", float(_passes(checks)))
    (content / "release.json").write_text(json.dumps({**registration, "checks": checks}, indent=1))
    return ReleaseArtifact.at(content, ReleaseFacts(name=config.name, version=version, is_champion=is_champion))


def _standing(is_champion: bool, checks: list[dict[str, Any]]) -> str:
    if is_champion:
        return "champion"
    return f"candidate; the gate failed: {_failed(checks)}" if _failed(checks) else "candidate"


def _failed(checks: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{check['of']} {check['name']} {check['measured']:.4g} {check['known']}".rstrip()
        + f", limit {check['limit']:.4g}"
        for check in checks
        if not check["has_passed"]
    )


def _graphs(inputs: RegisterInputs) -> dict[str, OnnxArtifact]:
    """Return the graphs by their folder in the version: `onnx` holds float32 weights, `onnx-int8` and the like say what they hold."""
    graphs: dict[str, OnnxArtifact] = {}
    for graph in sorted(inputs.onnx, key=lambda onnx: _quantization(onnx) != "none"):  # MLmodel lists the first
        kind = _quantization(graph)
        form = "-".join(["onnx", *(word for word in kind.split() if word not in ("none", "weights"))])
        if form in graphs:
            raise ValueError(f"onnx: two graphs of quantization {kind}; a version takes one of each")
        graphs[form] = graph
    return graphs


def _quantization(graph: OnnxArtifact) -> str:
    return graph.facts.quantization or "none"


def _evaluations(inputs: RegisterInputs) -> dict[str, EvaluationArtifact]:
    """Return the evaluations by form. Raises ValueError for one that measured something that is not registered here."""
    _check_measured("evaluation", inputs.evaluation, inputs.model)
    evaluations = {"model": inputs.evaluation}
    by_fingerprint = {graph.fingerprint: name for name, graph in _graphs(inputs).items()}
    for evaluation in inputs.onnx_evaluation:
        form = by_fingerprint.get(evaluation.facts.model_fingerprint)
        if form is None:
            raise ValueError("onnx_evaluation: it measured none of the graphs given as onnx")
        evaluations[form] = evaluation
    return evaluations


def _check_measured(slot: str, evaluation: EvaluationArtifact, model: Artifact) -> None:
    fingerprint = evaluation.facts.model_fingerprint
    if fingerprint != model.fingerprint:
        raise ValueError(
            f"{slot}: it measured model {fingerprint[:12]}, not {model.fingerprint[:12]} that is to be registered"
        )


def _ratios(inputs: RegisterInputs, evaluations: Mapping[str, EvaluationArtifact]) -> dict[str, dict[str, Ratio]]:
    original = evaluation_of(inputs.baseline)
    return {form: paired_ratios(evaluation_of(evaluation), original) for form, evaluation in evaluations.items()}


def _verdict(
    config: RegisterConfig,
    figures: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, float],
    ratios: Mapping[str, Mapping[str, Ratio]],
) -> list[dict[str, Any]]:
    """Gate every form that was measured."""
    checks = []
    for form, some in figures.items():
        for check in run_gate(config.gate, some, baseline, ratios[form]):
            note(f"gate, {form}: {check}{f' ({check.undecided})' if check.undecided else f'; {check.laxness}'}")
            checks.append(check.as_dict() | {"of": form})
    return checks


def _passes(checks: list[dict[str, Any]]) -> bool:
    """Say whether none fails, and one at least could be decided where any was asked for."""
    is_decided = not checks or any(not check["undecided"] for check in checks)
    return is_decided and all(check["has_passed"] for check in checks)


def _release(
    config: RegisterConfig,
    inputs: RegisterInputs,
    graphs: Mapping[str, OnnxArtifact],
    figures: Mapping[str, Mapping[str, float]],
    checks: list[dict[str, Any]],
) -> Release:
    store = Store(attar_home())
    return Release.of(
        config.name,
        trace(store, inputs.model),
        trace(store, inputs.evaluation),
        forms={
            "model": inputs.model.facts,
            **{name: {**graph.facts, "format": "onnx"} for name, graph in graphs.items()},
        },
        figures=figures,
        checks=checks,
        readers=readers_of(inputs.model.path),
        scores=lambda ancestors: scan_scores(store, ancestors),
    )


def _tags(inputs: RegisterInputs, graphs: Mapping[str, OnnxArtifact], has_passed: bool) -> dict[str, str]:
    artifacts = {"model": inputs.model, "evaluation": inputs.evaluation, "baseline": inputs.baseline, **graphs}
    return {f"attar.{name}_key": artifact.key for name, artifact in artifacts.items()} | {
        "attar.fingerprint": inputs.model.fingerprint,
        "validation_status": "passed" if has_passed else "failed",
    }


def _work_key(config: RegisterConfig, inputs: RegisterInputs) -> str:
    artifacts = [inputs.model, inputs.evaluation, inputs.baseline, *inputs.onnx, *inputs.onnx_evaluation]
    return digest([config.model_dump(mode="json"), [artifact.fingerprint for artifact in artifacts]])
