"""Stage `register`: put the model into the MLflow registry, as candidate, and past the gate as champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.artifacts.facts import Facts, fact_text
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import Artifact, EvaluationArtifact, ReleaseArtifact
from attar.registry.artifacts.kinds.kind_facts import ReleaseFacts
from attar.registry.artifacts.lineage import trace
from attar.registry.artifacts.store import Store
from attar.registry.artifacts.subjects import DENOISER, subject_of
from attar.registry.release.figures import KEYS_TAG, MODEL_KEY_TAG, write_figures
from attar.registry.release.gate import Ratio
from attar.stages.artifacts.mixed_subjects import refuse_mixed
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.evaluate.images.drawn import unlike
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.register.config import RegisterConfig, RegisterInputs
from attar.stages.register.forms import Form, format_of, forms_by_folder
from attar.stages.register.gate_verdict import Verdict, check_inputs, check_names, interval_verdict, threshold_verdict
from attar.stages.register.model_card import write_card
from attar.stages.register.provenance import check_signing, statement_of
from attar.stages.register.release import Release
from attar.stages.register.release_numbers import (
    figure_rows,
    measured,
    number_tags,
    page_figures,
    scan_scores,
)
from attar.stages.register.subjects import RELEASES, check_gate
from attar.stages.runtime.progress import bar, metric, note


def _forecast(config: RegisterConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    graphs = (*inputs.get("onnx", ()), *inputs.get("forms", ()))
    evaluations = inputs.get("onnx_evaluation", ())
    refuse_mixed(inputs["model"][0], {name: inputs.get(name, ()) for name in ("onnx", "forms")})
    check_gate(config.gate, subject_of(inputs["model"][0]))
    if len(evaluations) > len(graphs):
        raise ValueError(
            f"onnx_evaluation: {len(evaluations)} of them for {len(graphs)} inputs onnx; give the graph that each measured"
        )
    for name in ("evaluation", "baseline", "onnx_evaluation"):
        if any(facts.get("part") == "choose" for facts in inputs.get(name, ())):
            raise ValueError(
                f"{name} was measured on the rows that choices are made on; accepted: evaluate.part heldout"
            )
    check_inputs(config.interval_gate, [name for name, some in inputs.items() if some])
    check_names(config.interval_gate, inputs)
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
    """Register the model with its forms, card, lineage and figures; alias `candidate`, and `champion` once the gate holds.

    A failed gate is not a failed stage: the version stays candidate and the verdict says why.
    Raises ValueError when an evaluation measured something else than what is registered.
    """
    # MLflow takes seconds to import, and checking a recipe needs none of it
    from attar.registry.release.model_registry import register_model

    check_signing()
    steps, forms = bar("registering", 2, "steps"), forms_by_folder(inputs.onnx, inputs.forms)
    evaluations = _evaluations(inputs, forms)
    figures = {form: measured(evaluation) for form, evaluation in evaluations.items()}
    baseline, ratios = measured(inputs.baseline), _ratios(inputs, evaluations)
    if config.interval_gate is None:
        verdict = threshold_verdict(config.thresholds, figures, baseline, ratios)
    else:
        verdict = interval_verdict(config.interval_gate, inputs, evaluations)
    is_champion = verdict.has_passed and config.champion == "past_gate"
    release = _release(config, inputs, forms, {"original": baseline, **figures}, verdict.checks)
    numbers = number_tags(figures, baseline, release.scan, ratios)
    write = _writer(inputs, forms, write_card(release), figure_rows(numbers))
    steps.advance()
    registration = register_model(
        config.name,
        _work_key(config, inputs),
        write,
        metrics={f"{form}/{name}": value for form, some in figures.items() for name, value in some.items()},
        params={name: fact_text(value) for name, value in inputs.model.facts.items()},
        tags=page_figures(numbers, figures) | _tags(inputs, forms, verdict, release.license),
        figures=numbers,
        scratch=workdir,
        is_champion=is_champion,
        sign=lambda checksums: statement_of(release, checksums),
        model_type=inputs.model.subject.model_type,
    )
    steps.advance()
    write_figures(workdir / "content", figure_rows(numbers))
    return _released(config, workdir / "content", asdict(registration), verdict, is_champion)


def _writer(
    inputs: RegisterInputs, forms: Mapping[str, Form], card: str, figures: Sequence[Mapping[str, Any]]
) -> Callable[[Path], None]:
    """Load the model and return what writes a version of it into a folder."""
    from attar.registry.release.model_flavor import write_version  # MLflow, as above

    releases = RELEASES[inputs.model.subject]
    components = releases.components(inputs.model.path)
    return lambda folder: write_version(
        folder,
        components,
        model_folder=inputs.model.path,
        form_folders={name: form.path for name, form in forms.items()},
        card=card,
        metadata={"attar.fingerprint": inputs.model.fingerprint},
        figures=figures,
        task=releases.wording.task,
        library=releases.wording.library,
    )


def _released(
    config: RegisterConfig,
    content: Path,
    registration: Mapping[str, Any],
    verdict: Verdict,
    is_champion: bool,
) -> ReleaseArtifact:
    version = registration["version"]
    standing = "champion" if is_champion else f"candidate{verdict.standing}"
    note(f"registered {config.name} version {version} as {standing}")
    metric("gate_passed", float(verdict.has_passed))
    released = {**registration, "verdict": verdict.text, "checks": verdict.checks}
    (content / "release.json").write_text(json.dumps(released, indent=1))
    return ReleaseArtifact.at(content, ReleaseFacts(name=config.name, version=version, is_champion=is_champion))


def _evaluations(inputs: RegisterInputs, forms: Mapping[str, Form]) -> dict[str, EvaluationArtifact]:
    """Return the evaluations by form. Raises ValueError for one that measured something that is not registered here."""
    _check_measured("evaluation", inputs.evaluation, inputs.model)
    evaluations = {"model": inputs.evaluation}
    by_fingerprint = {form.fingerprint: name for name, form in forms.items()}
    for evaluation in inputs.onnx_evaluation:
        form = by_fingerprint.get(evaluation.facts.model_fingerprint)
        if form is None:
            raise ValueError("onnx_evaluation: it measured none of the graphs given as onnx")
        evaluations[form] = evaluation
    if inputs.model.subject is DENOISER:
        _check_drawn(inputs.baseline, list(evaluations.values()))
    return evaluations


def _check_drawn(baseline: EvaluationArtifact, evaluations: Sequence[EvaluationArtifact]) -> None:
    """Raise ValueError where images were drawn otherwise than the original's: their distances would not compare."""
    original = evaluation_of(baseline)
    for evaluation in evaluations:
        if why := unlike(evaluation_of(evaluation), original):
            raise ValueError(why)


def _check_measured(slot: str, evaluation: EvaluationArtifact, model: Artifact) -> None:
    fingerprint = evaluation.facts.model_fingerprint
    if fingerprint != model.fingerprint:
        raise ValueError(
            f"{slot}: it measured model {fingerprint[:12]}, not {model.fingerprint[:12]} that is to be registered"
        )


def _ratios(inputs: RegisterInputs, evaluations: Mapping[str, EvaluationArtifact]) -> dict[str, dict[str, Ratio]]:
    original = evaluation_of(inputs.baseline)
    return {form: paired_ratios(evaluation_of(evaluation), original) for form, evaluation in evaluations.items()}


def _release(
    config: RegisterConfig,
    inputs: RegisterInputs,
    forms: Mapping[str, Form],
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
            **{name: {**form.facts, "format": format_of(form)} for name, form in forms.items()},
        },
        figures=figures,
        checks=checks,
        readers=RELEASES[inputs.model.subject].readers(inputs.model.path),
        scores=lambda ancestors: scan_scores(store, ancestors),
    )


def _tags(inputs: RegisterInputs, forms: Mapping[str, Form], verdict: Verdict, license_name: str) -> dict[str, str]:
    artifacts = {"model": inputs.model, "evaluation": inputs.evaluation, "baseline": inputs.baseline, **forms}
    beside = {"comparison": inputs.comparison, "behaviour": inputs.behaviour}
    artifacts |= {name: artifact for name, artifact in beside.items() if artifact is not None}
    return {
        MODEL_KEY_TAG: inputs.model.key,
        KEYS_TAG: json.dumps({name: artifact.key for name, artifact in artifacts.items()}),
        "attar.fingerprint": inputs.model.fingerprint,
        "validation_status": verdict.text,
        "license": license_name,
    }


def _work_key(config: RegisterConfig, inputs: RegisterInputs) -> str:
    artifacts = [inputs.model, inputs.evaluation, inputs.baseline, *inputs.onnx, *inputs.onnx_evaluation, *inputs.forms]
    artifacts += [beside for beside in (inputs.comparison, inputs.behaviour) if beside is not None]
    return digest([config.model_dump(mode="json"), [artifact.fingerprint for artifact in artifacts]])
