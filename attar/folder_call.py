"""A stage called on folders, without a recipe and without Prefect: `attar.stages.prune(model="folder", blocks=[2], output="smaller")`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attar.compressors.catalogue import did_you_mean
from attar.folder_inputs import slot_value
from attar.one_line import told_in_one_line
from attar.pipelines.recipe.explain import explanations
from attar.registry.artifacts.delivery import check_output, deliver
from attar.registry.artifacts.environment import attar_home, configure_process
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES
from attar.stages.contract import Stage, StageConfig, by_slot
from attar.stages.runtime.older_fields import renewed

# Arguments of every call, beside the stage's inputs and the fields of its config.
OWN_ARGUMENTS = {
    "config": "fields as a mapping: for those that share their name with an input, or a whole config from a recipe",
    "output": "a new or empty folder that the result is copied into; without it, it stays in the store",
    "store": "the store that keeps results and gives them back; without it, that of ATTAR_HOME",
}


@told_in_one_line
def call_stage(name: str, arguments: Mapping[str, Any]) -> Artifact:
    """Run a stage on artifacts, folders, files and source lines. Return its artifact, from the store where the same was made before.

    Raises AttarError for an argument that it does not take and for input it cannot work on.
    """
    stage = _stage(name)
    _refuse_unknown(stage, arguments)
    output = arguments.get("output")
    if output is not None:
        check_output(Path(output).expanduser().resolve())
    config = _config(stage, arguments)
    configure_process()
    store = arguments.get("store") or Store(attar_home())
    inputs = _inputs(stage, arguments, store)
    facts = {slot: tuple(artifact.facts for artifact in artifacts) for slot, artifacts in by_slot(inputs).items()}
    try:
        forecast = stage.forecast(config, facts)
        expected_bytes = int(forecast.disk_bytes)
        artifact = stage.execute(config, inputs, store, expected_bytes=expected_bytes).artifact
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if output is not None:
        deliver(artifact, Path(output))
    return artifact


def stage_names() -> list[str]:
    """Return the stages that can be called."""
    return list(STAGES)


def refusal_of_name(name: str) -> str:
    """Return what is wrong with a stage's name; empty for nothing."""
    return "" if name in STAGES else f"no stage {name!r}.{did_you_mean(name, STAGES)}"


def call_signature(name: str) -> inspect.Signature:
    """Return the keyword arguments of a stage's call, with their defaults."""
    return inspect.Signature(list(_parameters(_stage(name))), return_annotation=reduce(or_, _stage(name).output_types))


def call_docs(name: str) -> str:
    """Return what a stage does and what each argument of its call means."""
    stage = _stage(name)
    lines = [inspect.getdoc(stage.run) or "", "", "Args:"]
    for slot in stage.slots.values():
        kinds = " or ".join(kind.kind for kind in slot.kinds)
        lines.append(f"    {slot.name}: {kinds}{', one or several' if slot.is_many else ''}: artifact, folder or file.")
    for field, about in stage.config_type.model_fields.items():
        if field not in stage.slots:
            lines.append(f"    {field}: {' '.join((about.description or '').split())}")
    lines += [f"    {argument}: {about}." for argument, about in OWN_ARGUMENTS.items()]
    return "\n".join(lines)


def _parameters(stage: Stage[Any, Any, Any]) -> Iterator[inspect.Parameter]:
    for slot in stage.slots.values():
        default = inspect.Parameter.empty if slot.is_required else () if slot.is_many else None
        yield _keyword(slot.name, default, Any)
    for name, field in stage.config_type.model_fields.items():
        if name not in stage.slots:
            default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
            yield _keyword(name, default, field.annotation)
    yield _keyword("config", None, Mapping[str, Any] | None)
    yield _keyword("output", None, str | Path | None)
    yield _keyword("store", None, Store | None)


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _stage(name: str) -> Stage[Any, Any, Any]:
    if message := refusal_of_name(name):
        raise TypeError(message)
    return STAGES[name]


def _refuse_unknown(stage: Stage[Any, Any, Any], arguments: Mapping[str, Any]) -> None:
    known = [parameter.name for parameter in _parameters(stage)]
    for name in arguments:
        if name not in known:
            raise ValueError(f"{stage.name}: no argument {name!r}.{did_you_mean(name, known)}")
    for parameter in _parameters(stage):
        fields = {} if parameter.name in stage.slots else arguments.get("config") or {}
        if parameter.default is inspect.Parameter.empty and parameter.name not in {*arguments, *fields}:
            raise ValueError(f"{stage.name}: {parameter.name} is missing")


def _config(stage: Stage[Any, Any, Any], arguments: Mapping[str, Any]) -> StageConfig:
    """Return the config of a call. Raises ValueError with each field that is wrong in one line."""
    fields = {name: value for name, value in arguments.items() if name not in stage.slots and name not in OWN_ARGUMENTS}
    given = {**(arguments.get("config") or {}), **fields}
    try:
        return stage.config_type.model_validate(given)
    except ValidationError as error:
        lines = explanations(error, renewed(stage.config_type, given)[0], stage.config_type)
        mistakes = "; ".join(line.removeprefix("config.").removeprefix("config: ") for line in lines)
        raise ValueError(f"{stage.name}: {' '.join(mistakes.split())}") from error


def _inputs(stage: Stage[Any, Any, Any], arguments: Mapping[str, Any], store: Store) -> Any:
    given = {name: value for name, value in arguments.items() if name in stage.slots and value not in (None, ())}
    return stage.input_type(
        **{name: slot_value(stage.slots[name], value, store, stage.name) for name, value in given.items()}
    )
