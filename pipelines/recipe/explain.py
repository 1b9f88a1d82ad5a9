"""Pydantic's complaints as lines of a recipe's author: field, value, what is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.recipe.mistakes import MAX_LINES, shown

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Path = tuple[str | int, ...]


def explanations(error: ValidationError, given: dict[str, Any], config_type: type[BaseModel]) -> list[str]:
    """Return a line for each field that is wrong, beginning with `config.` and its path; of a union's complaints the first."""
    lines: dict[Path, str] = {}
    for complaint in error.errors(include_url=False, include_context=False):
        path = _path_in(given, complaint)
        if any(path[: len(told)] == told or told[: len(path)] == path for told in lines if told and path):
            continue
        if path not in lines and len(lines) < MAX_LINES:
            lines[path] = _line(complaint, path, config_type)
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


def _line(complaint: Any, path: Path, config_type: type[BaseModel]) -> str:
    where = ".".join(map(str, ("config", *path)))
    model = _model_at(config_type, path[:-1])
    if complaint["type"] == "extra_forbidden":
        known = did_you_mean(str(path[-1]), model.model_fields) if model else ""
        return f"{where}: unknown field.{known}"
    if complaint["type"] == "missing":
        field = model.model_fields.get(str(path[-1])) if model else None
        return f"{where}: missing. Accepted: {' '.join((field.description or '').split()) if field else 'a value'}"
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{where} = {shown(complaint['input'])}: {message}" if path else f"config: {message}"


def _model_at(model: type[BaseModel] | None, path: Path) -> type[BaseModel] | None:
    """Return the config that the fields behind `path` belong to, None where that is no config of its own."""
    for part in path:
        field = model.model_fields.get(str(part)) if model else None
        inner = field.annotation if field else None
        model = inner if isinstance(inner, type) and hasattr(inner, "model_fields") else None
    return model
