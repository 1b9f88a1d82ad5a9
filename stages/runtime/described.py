"""Base of all that a recipe configures: frozen, closed to unknown fields, each field described by the docstring under it.

pydantic can read such docstrings itself (`use_attribute_docstrings`): it looks through all loaded modules for the frame of each class, and
takes its source apart word by word. It also builds the schema of every class as it is made. Both are paid by every command, whatever it
asks for. Here a file is parsed once, and a schema is built when it is first used.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator

from attar.stages.runtime.older_fields import Moved, is_plain, member_of, renewed


class DescribedModel(BaseModel):
    """A frozen model without unknown fields, each of its fields described by the docstring under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Describe the fields of a class as soon as it has them."""
        super().__pydantic_init_subclass__(**options)
        path = getattr(sys.modules.get(cls.__module__), "__file__", None)
        for name, text in _field_texts(path).get(cls.__qualname__, {}).items() if path else ():
            field = cls.model_fields.get(name)
            if field is not None and field.description is None:
                field.description = text


@cache
def _field_texts(path: str) -> dict[str, dict[str, str]]:
    """Return the docstrings under the fields of each class of a file, by the class's qualified name."""
    texts: dict[str, dict[str, str]] = {}
    if (
        not path.endswith(".py") or not Path(path).is_file()
    ):  # compiled, or in an archive: without its source nothing is told
        return texts
    _collect(ast.parse(Path(path).read_bytes()).body, "", texts)
    return texts


def _collect(body: list[ast.stmt], outer: str, texts: dict[str, dict[str, str]]) -> None:
    for statement, following in zip(body, [*body[1:], None], strict=True):
        match statement, following:
            case ast.ClassDef(name=name), _:
                _collect(statement.body, f"{outer}{name}.", texts)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name), _:
                _collect(statement.body, f"{outer}{name}.<locals>.", texts)
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts.setdefault(outer[:-1], {})[name] = inspect.cleandoc(text)


class StageConfig(DescribedModel):
    """Base of every stage's config: frozen, closed to unknown fields, each field described by the docstring under it."""

    # where each field of the flat form of earlier versions is now
    moved: ClassVar[Mapping[str, Moved]] = {}

    @model_validator(mode="before")
    @classmethod
    def _in_the_form_of_today(cls, given: Any) -> Any:
        return cls.completed(renewed(cls, given)[0]) if isinstance(given, Mapping) else given

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given, in today's form, with each default that follows from another field. Most configs have none."""
        return given

    def with_random_teacher(self) -> Self | None:
        """Return the config with a teacher that knows nothing. None where nothing is learned from a teacher, as in most stages."""
        return None

    def with_changes(self, **changes: Any) -> Self:
        """Return the config with some fields changed, checked as a recipe's is; a mapping changes the fields within."""
        return type(self).model_validate(_merged(type(self), self.model_dump(), renewed(type(self), changes)[0]))


def _merged(model: type[BaseModel], content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with changes in it, in the configs within too; another kind brings its own fields."""
    merged = dict(content)
    for name, value in changes.items():
        before = merged.get(name)
        merged[name] = value
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = member_of(model, name, {**before, **value})
            if inner is not None and inner is member_of(model, name, before) and not is_plain(model, name, value):
                merged[name] = _merged(inner, before, value)
    return merged
