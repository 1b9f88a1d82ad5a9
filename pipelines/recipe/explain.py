"""Pydantic's complaints as lines of a recipe's author: field, value, what is accepted."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from attar.compressors.catalogue import MAX_NAME_LENGTH, did_you_mean
from attar.pipelines.recipe.mistakes import MAX_LINES, shown
from attar.stages.runtime.accepted import accepted
from attar.stages.runtime.older_fields import member_of, models_in

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]


def explanations(error: ValidationError, given: dict[str, Any], config_type: type[BaseModel]) -> list[str]:
    """Return a line for each field that is wrong, beginning with `config.` and its path. Of a union's complaints the first."""
    lines: dict[Path, str] = {}
    for complaint in error.errors(include_url=False):
        path = _path_in(given, complaint)
        if any(path[: len(line)] == line or line[: len(path)] == path for line in lines if line and path):
            continue
        if path not in lines and len(lines) < MAX_LINES:
            lines[path] = _line(complaint, path, config_type, given)
    return list(lines.values())


def _path_in(given: Any, complaint: Any) -> Path:
    """Return where in the recipe a complaint is about: pydantic also names the member of a union that it tried."""
    path: list[str | int] = []
    for part in complaint["loc"]:
        is_index = isinstance(given, list) and isinstance(part, int) and part < len(given)
        if is_index or (isinstance(given, dict) and part in given):
            given = given[part]
        elif complaint["type"] != "missing" or part != complaint["loc"][-1]:
            continue
        path.append(part)
    return tuple(path)


def _line(complaint: Any, path: Path, config_type: type[BaseModel], given: Any) -> str:
    where = ".".join(map(str, ("config", *path)))
    model = _model_at(config_type, path[:-1], given)
    if complaint["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [kind.strip(" '") for kind in complaint["ctx"].get("expected_tags", "").split(",")]
        chosen = str(complaint["ctx"].get("tag", ""))
        return f"{where}.kind = {shown(chosen)}: unknown.{did_you_mean(chosen, kinds)}"
    if complaint["type"] == "extra_forbidden":
        return f"{where}: unknown field.{_close_field(str(path[-1]), model) if model else ''}"
    if complaint["type"] == "missing":
        field = model.model_fields.get(str(path[-1])) if model else None
        return f"{where}: missing. Accepted: {' '.join((field.description or '').split()) if field else 'a value'}"
    if path and (instead := accepted(complaint)):
        return f"{where} is {shown(complaint['input'])}; accepted: {instead}"
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{where} = {shown(complaint['input'])}: {message}" if path else f"config: {message}"


def _close_field(name: str, model: type[BaseModel]) -> str:
    """Return what a field that is not there could be: one beside it, or one within those beside it by its path."""
    within = {
        inner: f"{outer}.{inner}"
        for outer, field in model.model_fields.items()
        for member in models_in(field.annotation)
        for inner in member.model_fields
    }
    known = did_you_mean(name, model.model_fields)
    close = difflib.get_close_matches(
        name[:MAX_NAME_LENGTH], within.keys() | model.model_fields.keys(), n=1, cutoff=0.5
    )
    if not close or close[0] in model.model_fields:
        return known
    return f" Did you mean {within[close[0]]!r}? Known:{known.rpartition(' Known:')[2]}"


def _model_at(model: type[BaseModel] | None, path: Path, given: Any) -> type[BaseModel] | None:
    """Return the config that the fields behind `path` belong to, None where that is no config of its own."""
    for part in path:
        given = given.get(part) if isinstance(given, dict) else None
        model = None if model is None else member_of(model, str(part), given)
    return model
