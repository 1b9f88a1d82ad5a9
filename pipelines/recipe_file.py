"""A recipe's file: shipped or by path, plain YAML without tags that make objects, no larger than a person would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compressors.catalogue import did_you_mean
from registry.confinement import confined

RECIPES_FOLDER = Path(__file__).parent / "recipes"
RECIPE_FIELDS = ("name", "description", "execution", "method", "nodes")
MAX_BYTES = 1_000_000
# A few anchors that name each other stand for billions of values.
MAX_VALUES = 100_000


class RecipeError(ValueError):
    """The recipe is wrong; the message is one line for its author."""


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with Attar, by name; those of a folder by `folder/name`."""
    paths = [*sorted(RECIPES_FOLDER.glob("*.yaml")), *sorted(RECIPES_FOLDER.glob("*/*.yaml"))]
    return {path.relative_to(RECIPES_FOLDER).with_suffix("").as_posix(): path for path in paths}


def read_document(name_or_path: str) -> dict[str, Any]:
    """Return a recipe's YAML content by shipped name or path, not checked yet. Raises RecipeError."""
    path = recipe_path(name_or_path)
    if path not in shipped_recipes().values():
        try:
            confined(path)
        except ValueError as error:
            raise RecipeError(f"recipe {name_or_path!r}: {error}") from error
    if not path.is_file():
        raise RecipeError(
            f"recipe {name_or_path!r}: no such file or shipped recipe.{did_you_mean(name_or_path, shipped_recipes())}"
        )
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(f"recipe {path}: {path.stat().st_size} bytes; a recipe has {MAX_BYTES} at most")
    try:
        document = yaml.load(path.read_text(), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"recipe {path}: a mapping with {', '.join(RECIPE_FIELDS)} is expected")
    if _num_values(document) > MAX_VALUES:
        raise RecipeError(f"recipe {path}: more than {MAX_VALUES} values once its anchors are written out")
    return document


def recipe_path(name_or_path: str) -> Path:
    """Return where a recipe lies, by shipped name or path."""
    return shipped_recipes().get(name_or_path, Path(name_or_path))


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice: YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _num_values(document: Any) -> int:
    """Count values as if every alias were written out, up to one more than accepted."""
    count, pending = 0, [document]
    while pending and count <= MAX_VALUES:
        value = pending.pop()
        count += 1
        pending.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    return count
