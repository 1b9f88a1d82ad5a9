"""Stage `check_behaviour`: what a student does otherwise than its original, beyond accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.runner import ForkingRunner, TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.handles import BehaviourArtifact, ModelArtifact, OnnxArtifact
from attar.stages.artifacts.dataset.measured_data import names_ahead, question_rows, unique_names
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.work_forecast import TOKENS_PER_ROW
from attar.stages.compare.behaviour.cases import ENDING, GROUPS, VERBATIM
from attar.stages.compare.behaviour.config import BehaviourConfig, BehaviourInputs
from attar.stages.compare.behaviour.flips import GroupDrop, flips_of, write_result
from attar.stages.compare.behaviour.outcomes import Behaving, Outcome
from attar.stages.contract import Forecast, stage
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


def _forecast(config: BehaviourConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (config.groups or inputs.get("cases") or inputs.get("training")):
        raise ValueError("nothing to check: give groups, or the input cases or training")
    num_parameters = float(inputs["model"][0].get("num_parameters", 0)) + float(
        inputs["original"][0].get("num_parameters", 0)
    )
    num_cases = sum(min(config.max_cases or len(rows), len(rows)) for rows in _groups(config).values())
    own = names_ahead(inputs.get("cases", ()))
    is_known = bool(own) or not inputs.get("cases")
    return Forecast(
        {"measured": (*config.groups, *own, ENDING, VERBATIM)} if is_known else {},
        num_flops=2.0 * num_parameters * num_cases * TOKENS_PER_ROW,
        peak_memory_bytes=6.0 * num_parameters,
    )


@stage("check_behaviour", version=1, forecast=_forecast)
def check_behaviour(config: BehaviourConfig, inputs: BehaviourInputs, workdir: Path) -> BehaviourArtifact:
    """Ask student and original the same cases and count the flips, each group with an interval.

    Groups: refusals kept, format kept (JSON, patterns, language), names and numbers copied from a text, arithmetic, brackets, and whether a
    choice stays the same wherever it stands. Of every written answer, whether it ends by a stop token without the chat template in it;
    of training text, whether it is written word for word. Raises ValueError where `cases` has a row without a verifier.
    """
    groups, training = {**_groups(config), **_own_groups(config, inputs)}, _training(config, inputs)
    # each model's outcomes survive a crash: the one that is finished is not asked again
    original = _outcomes(config, inputs.original, groups, training, workdir / "original.json")
    student = _outcomes(config, inputs.model, groups, training, workdir / "student.json")
    drops = {name: GroupDrop.of(student[name], original[name], config.level) for name in student}
    facts: dict[str, float] = {}
    for name, drop in drops.items():
        note(f"{name}: {drop}")
        facts |= {f"drop_{name}": drop.drop, f"drop_{name}_low": drop.low, f"drop_{name}_high": drop.high}
        facts |= {f"lost_{name}": drop.lost, f"won_{name}": drop.won, f"num_{name}": drop.num_cases}
    for name, value in facts.items():
        metric(name, value)
    models = {"model_fingerprint": inputs.model.fingerprint, "original_fingerprint": inputs.original.fingerprint}
    flips = flips_of(groups, training, student, original)
    write_result(workdir / "content", drops, student, original, flips, {**models, "level": config.level})
    return BehaviourArtifact.at(workdir / "content", {**models, **facts})


def _groups(config: BehaviourConfig) -> dict[str, list[Row]]:
    return {name: _first(GROUPS[name](), config.max_cases) for name in config.groups}


def _own_groups(config: BehaviourConfig, inputs: BehaviourInputs) -> dict[str, list[Row]]:
    names = unique_names(inputs.cases, "cases")
    groups = {}
    for name, data in zip(names, inputs.cases, strict=True):
        if name in {*GROUPS, ENDING, VERBATIM}:
            raise ValueError(f"cases: {name!r} is a group that comes with Attar; give the data set another name")
        rows = question_rows(data, config.max_cases)
        unchecked = [row.id for row in rows if not row.choices and row.verifier == "none"]
        if unchecked or not rows:
            why = f"row {unchecked[0]} has no verifier" if unchecked else "it has no question"
            raise ValueError(f"cases {name!r}: {why}; accepted: questions with choices or a verifier")
        groups[name] = rows
    return groups


def _training(config: BehaviourConfig, inputs: BehaviourInputs) -> list[Row]:
    rows: list[Row] = []
    for data in inputs.training:
        learned = split_rows(read_rows(data.path / "rows.jsonl"), "train")
        rows += _first([row for row in learned if row.answer or row.text], config.verbatim.num_rows)
    return rows


def _first(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows, evenly from the whole; all where the count is 0."""
    if not count or count >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def _outcomes(
    config: BehaviourConfig,
    model: ModelArtifact | OnnxArtifact,
    groups: Mapping[str, Sequence[Row]],
    training: Sequence[Row],
    path: Path,
) -> dict[str, list[Outcome]]:
    """Return a model's outcomes, from the file where an interrupted run has left them."""
    if path.exists():
        stored = json.loads(path.read_text())
        return {name: [Outcome(**outcome) for outcome in outcomes] for name, outcomes in stored.items()}
    from transformers import GenerationConfig  # a second that a plan need not wait for

    tokenizer = load_tokenizer(model.path)
    has_config = (model.path / "generation_config.json").exists()
    stop_ids = stop_token_ids(tokenizer, GenerationConfig.from_pretrained(model.path) if has_config else None)
    behaving = Behaving(_runner(config, model), tokenizer, stop_ids, config.max_new_tokens, config.batch_size)
    outcomes = behaving.outcomes(groups, training, config.verbatim)
    plain = {name: [asdict(outcome) for outcome in some] for name, some in outcomes.items()}
    write_synced(path, json.dumps(plain, ensure_ascii=False))
    return outcomes


def _runner(config: BehaviourConfig, model: ModelArtifact | OnnxArtifact) -> ForkingRunner:
    if model.is_graph:
        return OnnxRunner(open_session(model.path))
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))
