"""A recipe's file, shipped or by path. Plain YAML without tags that make objects, no larger than a person would write."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.recipe.mistakes import RecipeError, shown
from attar.registry.artifacts.confinement import confined

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"
RECIPE_FIELDS = ("name", "description", "control", "execution", "method", "nodes")
MAX_BYTES = 1_000_000
# A few anchors that name each other stand for billions of values.
MAX_VALUES = 100_000
MAX_DEPTH = 32
# Longer ones are no numbers that anybody means, and take the square of their length to read.
MAX_DIGITS = 64
# Ten times as fast as the one in Python, which a wheel of PyYAML falls back on where it has no libyaml.
PlainLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TAG = "tag:yaml.org,2002:"


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with Attar, by name: `folder/name`, whichever room of its folder a recipe lies in."""
    return dict(_named(RECIPES_FOLDER))


@cache
def _named(folder: Path) -> dict[str, Path]:
    """Return a folder's recipes. Looked for once: what an installation ships stays, and a load asks three times."""
    folders = {path: path.relative_to(folder).parts[:-1] for path in folder.rglob("*.yaml")}
    named = {"/".join([*rooms[:1], path.stem]): path for path, rooms in folders.items()}
    return dict(sorted(named.items(), key=lambda item: ("/" in item[0], item[0])))


def read_document(name_or_path: str) -> dict[str, Any]:
    """Return a recipe's YAML content by shipped name or path, not checked yet. Raises RecipeError."""
    where = f"recipe {shown(name_or_path)}"
    path = recipe_path(name_or_path)
    try:
        if path not in shipped_recipes().values():
            confined(path)
        if not path.is_file():
            known = did_you_mean(name_or_path, shipped_recipes())
            raise RecipeError(f"{where}: no such file or shipped recipe.{known}")
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{where}: {path.stat().st_size} bytes; a recipe has {MAX_BYTES} at most")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{where}: not UTF-8 text (byte {error.start})") from error
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    document = parse_yaml(text, where)
    if not isinstance(document, dict):
        raise RecipeError(f"{where}: a mapping with {', '.join(RECIPE_FIELDS)} is expected")
    return document


def recipe_path(name_or_path: str) -> Path:
    """Return where a recipe lies, by shipped name or path."""
    return shipped_recipes().get(name_or_path, Path(name_or_path))


def parse_yaml(text: str, where: str, *, is_text: bool = False) -> Any:
    """Return YAML content: keys are text as they are written, and with `is_text` so are all values. Raises RecipeError."""
    try:
        _check_size(text)
        loader = _Loader(text)
        loader.is_text = is_text
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        message = str(error).replace('in "<unicode string>", ', "at ").replace('in "<byte string>", ', "at ")
        raise RecipeError(f"{where}: not valid YAML: {message}") from error


def _check_size(text: str) -> None:
    """Raise YAMLError for what would be too much once its anchors are written out, before anything of it is made."""
    anchors: dict[str, tuple[int, int]] = {}
    # of each open list and mapping: its anchor, the values in it, and how deep they nest
    opened: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=PlainLoader):
        if getattr(event, "tag", None) not in (None, f"{TAG}str", "!"):
            raise yaml.YAMLError(f"could not determine a constructor for the tag {event.tag!r} {event.start_mark}")
        if isinstance(event, yaml.events.CollectionStartEvent):
            opened.append((event.anchor, 1, 1))
            num_values, depth, anchor = 0, 0, None
        elif isinstance(event, yaml.events.CollectionEndEvent):
            anchor, num_values, depth = opened.pop()
        elif isinstance(event, yaml.events.ScalarEvent):
            anchor, num_values, depth = event.anchor, 1, 1
        elif isinstance(event, yaml.events.AliasEvent):
            if event.anchor not in anchors:
                raise yaml.YAMLError(f"alias {event.anchor!r} names nothing before it {event.start_mark}")
            anchor, (num_values, depth) = None, anchors[event.anchor]
        else:
            continue
        if anchor is not None:
            anchors[anchor] = (num_values, depth)
        outer, num_so_far, depth_so_far = opened[-1]
        opened[-1] = (outer, num_so_far + num_values, max(depth_so_far, depth + 1))
        if opened[-1][1] > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values once its anchors are written out")
        if len(opened) + depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep {event.start_mark}")


class _Loader(PlainLoader):
    """Takes keys as text, and refuses one given twice: YAML would silently keep the last."""

    # dates are text: nothing of a recipe is one
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != f"{TAG}timestamp"]
        for first, pairs in PlainLoader.yaml_implicit_resolvers.items()
    }
    is_text = False

    def construct_document(self, node: Any) -> Any:
        for part in _parts(node):
            if isinstance(part, yaml.MappingNode):
                part.value = [(_text_key(key), value) for key, value in part.value]
                _check_keys(part)
        for part in _text_parts(node) if not self.is_text else _parts(node):
            if isinstance(part, yaml.ScalarNode) and part.tag != f"{TAG}null":
                part.tag = f"{TAG}str"
        for part in _parts(node):
            if part.tag in (f"{TAG}merge", f"{TAG}value"):
                part.tag = f"{TAG}str"
            elif part.tag in (f"{TAG}int", f"{TAG}float") and len(part.value) > MAX_DIGITS:
                raise yaml.YAMLError(f"a number of {len(part.value)} digits {part.start_mark}")
        return super().construct_document(node)


def _parts(top: Any) -> Iterator[Any]:
    """Yield each value once, `top` included; keys are left out."""
    seen, pending = set(), [top]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            pending.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _text_parts(top: Any) -> Iterator[Any]:
    """Yield what is a name or prose, whatever it looks like: a node may be called 1, yes or 010."""
    fields = _children(top)
    yield from (fields[name] for name in ("name", "description") if name in fields)
    for spec in _children(fields.get("nodes")).values():
        for value in _children(_children(spec).get("inputs")).values():
            yield from _parts(value)


def _children(node: Any) -> dict[str, Any]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _text_key(key: Any) -> Any:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.YAMLError(f"a list or mapping as a key {key.start_mark}")
    if key.tag == f"{TAG}merge":
        return key
    return yaml.ScalarNode(f"{TAG}str", key.value, key.start_mark, key.end_mark)


def _check_keys(node: Any) -> None:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.YAMLError(f"key {shown(key.value)} is given twice {key.start_mark}")
        seen.add(key.value)
