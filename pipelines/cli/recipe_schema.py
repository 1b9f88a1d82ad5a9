"""The JSON Schema of recipes. Nodes told apart by `stage`, each with its config's fields, ranges and descriptions, and its inputs.

`python -m attar.pipelines.cli.recipe_schema` writes the shipped file anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from attar.pipelines.recipe.control import CONTROLS
from attar.pipelines.recipe.execution import IN_PROCESS, MAX_SHARDS, POOL_NAME
from attar.pipelines.recipe.file import RECIPES_FOLDER
from attar.pipelines.recipe.method_card import MethodCard
from attar.pipelines.recipe.node import NAME
from attar.stages.catalogue import STAGES
from attar.stages.contract import InputSlot, Stage

# What editors read; newer drafts are known to fewer of them.
DRAFT = "http://json-schema.org/draft-07/schema#"
SCHEMA_FILE = RECIPES_FOLDER / "recipe.schema.json"
# The first line of a recipe, by which an editor finds its schema.
EDITOR_LINE = "# yaml-language-server: $schema={path}"
NODE_NAME = {"type": ["string", "integer", "number"]}


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe's YAML content. What only code can check (edges, methods by name) it leaves to `attar plan`."""
    definitions: dict[str, Any] = {}
    nodes = [_node(stage, definitions) for stage in STAGES.values()]
    pool = {"type": "string", "pattern": f"^{POOL_NAME}$", "description": f"{IN_PROCESS}, or the name of a work pool."}
    properties = {
        "name": {"type": ["string", "number"], "description": "Name of the recipe; default: that of its file."},
        "description": {"description": "What it is for, in a sentence."},
        "control": {
            "description": "Run it as the control that it must beat: every teacher gets random weights, and nothing is registered.",
            "enum": [*CONTROLS, None],
        },
        "execution": {
            "description": "Where the nodes of a stage run, by stage.",
            "type": ["object", "null"],
            "propertyNames": {"enum": list(STAGES)},
            "additionalProperties": pool,
        },
        "method": _card(),
        "nodes": {
            "description": "The steps: node names with a stage each.",
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": f"^{NAME}$"},
            "additionalProperties": {"$ref": "#/definitions/node"},
        },
    }
    definitions["pool"] = pool
    definitions["shards"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_SHARDS,
        "description": "How many workers of the pool share the work; no part of what is made.",
    }
    definitions["node"] = {"type": "object", "required": ["stage"], "oneOf": nodes}
    return {
        "$schema": DRAFT,
        "title": "Recipe of Attar",
        "type": "object",
        "additionalProperties": False,
        "required": ["nodes"],
        "properties": properties,
        "definitions": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def editor_line(path: Path, schema: Path = SCHEMA_FILE) -> str:
    """Return the first line of the recipe at `path`, which names a schema relative to it."""
    return EDITOR_LINE.format(path=Path(os.path.relpath(schema.resolve(), path.resolve().parent)).as_posix())


def _node(stage: Stage[Any, Any, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one stage's nodes, and add what its config refers to to `definitions`."""
    config = stage.config_type.model_json_schema(ref_template=f"#/definitions/{stage.name}.{{model}}")
    inner = config.pop("$defs", {})
    definitions |= {f"{stage.name}.{name}": schema for name, schema in inner.items()}
    definitions[f"{stage.name}.config"] = config
    _tell_kinds_apart([config, *inner.values()])
    slots = stage.slots.values()
    inputs: dict[str, Any] = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {slot.name: _slot(slot) for slot in slots},
    }
    if required := [slot.name for slot in slots if slot.is_required]:
        inputs |= {"type": "object", "required": required}
    wanted = ["stage", *(["config"] if config.get("required") else []), *(["inputs"] if required else [])]
    given = {"$ref": f"#/definitions/{stage.name}.config"}
    return {
        "title": stage.name,
        "description": stage.summary,
        "additionalProperties": False,
        "required": wanted,
        "properties": {
            "stage": {"const": stage.name, "description": stage.summary},
            "config": given if config.get("required") else {"anyOf": [given, {"type": "null"}]},
            "inputs": inputs,
            "execution": {"$ref": "#/definitions/pool"},
            **({} if stage.sharding is None else {"shards": {"$ref": "#/definitions/shards"}}),
        },
    }


def _tell_kinds_apart(schema: Any) -> None:
    """Let an alternative be given without its `kind` where that is the default's, and no other alternative take it then."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in parts:
        _tell_kinds_apart(part)
    if not isinstance(schema, dict) or schema.get("discriminator", {}).get("propertyName") != "kind":
        return
    default = schema["default"].get("kind") if isinstance(schema.get("default"), dict) else None
    preferred = schema["discriminator"]["mapping"].get(default)
    schema["oneOf"] = [
        choice if choice["$ref"] == preferred else {"allOf": [choice], "required": ["kind"]}
        for choice in schema["oneOf"]
    ]


def _slot(slot: InputSlot) -> dict[str, Any]:
    kinds = " or ".join(kind.kind for kind in slot.kinds)
    several = {"type": "array", "items": NODE_NAME, "minItems": int(slot.is_required)}
    if not slot.is_many:
        several["maxItems"] = 1
    description = f"{'Nodes' if slot.is_many else 'The node'} whose {kinds} it takes{'' if slot.is_required else '; may be left out'}."
    return {"description": description, "anyOf": [NODE_NAME, several]}


def _card() -> dict[str, Any]:
    names = [entry.name for entry in fields(MethodCard)]
    texts: dict[str, Any] = {name: {"type": "string", "minLength": 1} for name in names}
    texts["tests"] = {"type": "array", "minItems": 1}
    return {
        "description": "Of a recipe that is a method of the literature: what it is, and what holds it to that.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": names,
        "properties": texts,
    }


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text())
