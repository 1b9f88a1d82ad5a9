"""Base of all that a recipe configures: frozen, closed to unknown fields, each field described by the docstring under it.

pydantic can read such docstrings itself (`use_attribute_docstrings`): it looks through all loaded modules for the frame of each class, and
takes its source apart word by word. It also builds the schema of every class as it is made. Both are paid by every command, whatever it
asks for. Here a file is parsed once, and a schema is built when it is first used.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


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
