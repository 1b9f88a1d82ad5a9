"""The gate of a release: every form that was measured against its limits, with the verdict on all of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.compressors.measure.bootstrap import mean_over
from attar.compressors.measure.newcombe import Cells, PairedDrop
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import BehaviourArtifact, ComparisonArtifact, EvaluationArtifact
from attar.registry.release.gate import Ratio, run_gate
from attar.registry.release.interval_gate import FAILED, PASSED, Claim, judge_claims, whole_verdict
from attar.registry.release.measures import MEASURES
from attar.stages.compare.behaviour.flips import RESULT as BEHAVIOUR
from attar.stages.compare.stage import TEXTS
from attar.stages.evaluate.evidence import check_known, evaluation_claim
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.register.config import IntervalGate, RegisterInputs
from attar.stages.runtime.progress import note

# The sums over each text that `compare` keeps, by the measure that is made of them.
SUMS = {"kl_nats": "kl_nats", "agreement": "agreement", "loss_ratio": "loss_rise_nats"}
IGNORED = (
    "gate of thresholds: each is held at the worse end of a two-sided 95% interval (one-sided 2.5%); ignored are single tasks, KL and "
    "agreement, memory, and how many limits there are, and too few questions count as failed; gate.checks heeds them"
)


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and its checks as plain values, each with the form that it is of."""

    text: str
    checks: list[dict[str, Any]]

    @property
    def has_passed(self) -> bool:
        """Whether the version may be champion."""
        return self.text == PASSED

    @property
    def standing(self) -> str:
        """What a candidate that may not be champion lacks; empty where nothing is missing."""
        lines = [
            f"{check['of']} {check['name']} {check['measured']:.4g} {check['known']}".rstrip()
            + f", limit {check['limit']:.4g}"
            + (f" ({check['undecided']})" if check["undecided"] else "")
            for check in self.checks
            if not check["has_passed"]
        ]
        what = "the gate failed" if self.text == FAILED else self.text
        return f"; {what}: {'; '.join(lines)}" if lines else ""


def threshold_verdict(
    thresholds: Mapping[str, float],
    figures: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, float],
    ratios: Mapping[str, Mapping[str, Ratio]],
) -> Verdict:
    """Gate every form by thresholds on ratios. Passed: none fails, and one at least could be decided where any was asked for."""
    if thresholds:
        note(IGNORED)
    checks = []
    for form, some in figures.items():
        for check in run_gate(thresholds, some, baseline, ratios[form]):
            note(f"gate, {form}: {check}{f' ({check.undecided})' if check.undecided else f'; {check.laxness}'}")
            checks.append(check.as_dict() | {"of": form})
    is_decided = not checks or any(not check["undecided"] for check in checks)
    return Verdict(PASSED if is_decided and all(check["has_passed"] for check in checks) else FAILED, checks)


def interval_verdict(
    gate: IntervalGate, inputs: RegisterInputs, evaluations: Mapping[str, EvaluationArtifact]
) -> Verdict:
    """Gate every form by checks on intervals. Raises ValueError for a check whose measure, task or text was not measured."""
    claims = _claims(gate, inputs, evaluations)
    judged = judge_claims([claim for _, claim in claims], gate.level, gate.multiplicity)
    num_tests = sum(claim.has_spread for _, claim in claims)
    how = f"Holm over {num_tests} checks" if gate.multiplicity == "holm" else f"each of {num_tests} checks alone"
    note(f"gate at one-sided level {gate.level:g}, {how}; {len(claims) - num_tests} are exact")
    checks = []
    for (form, _), check in zip(claims, judged, strict=True):
        note(f"gate, {form}: {check}{f' ({check.advice})' if check.advice else f'; {check.claim.lets_through}'}")
        checks.append(check.as_dict() | {"of": form})
    return Verdict(whole_verdict([check.verdict for check in judged]), checks)


def check_inputs(gate: IntervalGate | None, given: Collection[str]) -> None:
    """Raise ValueError where the gate's checks and the inputs `comparison` and `behaviour` do not go together."""
    checks = gate.checks if gate is not None else ()
    for source, stage in (("comparison", "compare"), ("behaviour", "check_behaviour")):
        wanted = [check.measure for check in checks if check.definition.source == source]
        if wanted and source not in given:
            raise ValueError(f"gate.checks: {wanted[0]} is measured by {stage}; give the input {source}")
        if source in given and not wanted:
            accepted = ", ".join(name for name, measure in MEASURES.items() if measure.source == source)
            raise ValueError(f"{source}: no check of the gate reads it; accepted with {accepted}")


def check_names(gate: IntervalGate | None, inputs: Mapping[str, Sequence[Facts]]) -> None:
    """Raise ValueError for a check of a task, text or group that will not be measured. As far as that can be told before."""
    for check in gate.checks if gate is not None else ():
        for facts in inputs.get(check.definition.source, ())[:1]:
            known = {str(name) for name in facts.get("measured", ())}
            # a data set with both kinds of question makes two tasks
            bare = check.data.removesuffix("_choice").removesuffix("_open")
            if known and bare not in known:
                check_known(check.data, sorted(known), f"gate.checks: {check.measure}")


def _claims(
    gate: IntervalGate, inputs: RegisterInputs, evaluations: Mapping[str, EvaluationArtifact]
) -> list[tuple[str, Claim]]:
    baseline = evaluation_of(inputs.baseline)
    contents = {form: evaluation_of(evaluation) for form, evaluation in evaluations.items()}
    pair = inputs.model.fingerprint, inputs.baseline.facts.model_fingerprint
    claims: list[tuple[str, Claim]] = []
    for check in gate.checks:
        source = check.definition.source
        if source == "comparison":
            assert inputs.comparison is not None, "the forecast refuses it"
            claims.append(("model", _comparison_claim(check, _texts(inputs.comparison, *pair))))
        elif source == "behaviour":
            assert inputs.behaviour is not None, "the forecast refuses it"
            claims.append(("model", _behaviour_claim(check, _outcomes(inputs.behaviour, *pair))))
        else:
            claims += [(form, evaluation_claim(check, content, baseline)) for form, content in contents.items()]
    return claims


def _texts(comparison: ComparisonArtifact, model: str, original: str) -> dict[str, dict[str, list[float]]]:
    """Return data set -> sums by text of the model that is registered. Raises ValueError where others were compared."""
    path = comparison.path / TEXTS
    if not path.is_file():
        raise ValueError("comparison: it was made by an earlier version and keeps no texts; compare again")
    content = json.loads(path.read_text())
    if model not in content["students"] or content["original"] != original:
        raise ValueError(
            "comparison: it did not compare the model that is to be registered with the original of baseline"
        )
    return content["students"][model]


def _comparison_claim(check: GateCheck, texts: Mapping[str, Mapping[str, list[float]]]) -> Claim:
    check_known(check.data, sorted(texts), f"gate check {check.measure}")
    chosen = [texts[check.data]] if check.data else list(texts.values())
    if not chosen:
        raise ValueError(f"gate check {check.measure}: compare read no text; give it the input texts")
    sums = [value for some in chosen for value in some[SUMS[check.measure]]]
    counts = [count for some in chosen for count in some["counts"]]
    if check.measure == "loss_ratio":
        return check.claim(mean_over(sums, counts, "texts", np.exp))
    return check.claim(mean_over(sums, counts, "texts"))


def _outcomes(behaviour: BehaviourArtifact, model: str, original: str) -> dict[str, dict[str, list[float]]]:
    """Return group -> outcomes of student and original in pairs. Raises ValueError where others were checked."""
    facts = behaviour.facts
    if (facts.model_fingerprint, facts.original_fingerprint) != (model, original):
        raise ValueError(
            "behaviour: it did not check the model that is to be registered against the original of baseline"
        )
    return json.loads((behaviour.path / BEHAVIOUR).read_text())["outcomes"]


def _behaviour_claim(check: GateCheck, outcomes: Mapping[str, Mapping[str, list[float]]]) -> Claim:
    check_known(check.data, sorted(outcomes), f"gate check {check.measure}")
    chosen = [outcomes[check.data]] if check.data else list(outcomes.values())
    return check.claim(PairedDrop(tuple(Cells.of(pair["student"], pair["original"]) for pair in chosen), unit="cases"))
