"""The JSON Schema of recipes: it is what the code gives, says yes to every shipped recipe, and no to what a person mistypes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.cli.recipe_schema import SCHEMA_FILE, editor_line, recipe_schema, schema_text
from attar.pipelines.recipe.file import read_document, shipped_recipes
from attar.pipelines.recipe.whole import load_recipe
from attar.stages.catalogue import STAGES

VALIDATOR = Draft7Validator(json.loads(SCHEMA_FILE.read_text()))


def test_the_shipped_file_is_what_the_code_gives() -> None:
    """`make generated` writes the file anew."""
    assert SCHEMA_FILE.read_text() == schema_text()


def test_it_is_a_schema_and_has_every_stage_with_every_field() -> None:
    schema = recipe_schema()
    Draft7Validator.check_schema(schema)
    branches = {branch["properties"]["stage"]["const"]: branch for branch in schema["definitions"]["node"]["oneOf"]}
    assert set(branches) == set(STAGES)
    for name, stage in STAGES.items():
        fields = schema["definitions"][f"{name}.config"].get("properties", {})
        assert set(fields) == set(stage.config_type.model_fields)
        assert set(branches[name]["properties"]["inputs"]["properties"]) == set(stage.slots)
        assert all(is_explained(field, schema["definitions"]) for field in fields.values())


def is_explained(field: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """A field says what it is, or leads to a config that does."""
    return bool(field.get("description") or definitions[field["$ref"].rpartition("/")[2]]["description"])


def test_an_alternative_without_its_kind_is_the_default() -> None:
    document = {"nodes": {"a": {"stage": "finetune", "config": {}, "inputs": {"model": "m", "data": "d"}}}}
    for adapt, is_right in (
        ({"rank": 4}, True),
        ({"kind": "full"}, True),
        ({"kind": "ful"}, False),
        ({"ranks": 4}, False),
    ):
        document["nodes"]["a"]["config"] = {"adapt": adapt}
        assert VALIDATOR.is_valid(document) == is_right


def test_ranges_and_choices_are_in_it() -> None:
    fields = recipe_schema()["definitions"]["prune.config"]["properties"]
    patch = recipe_schema()["definitions"]["prune.LinearPatch"]["properties"]
    assert fields["num_blocks"]["minimum"] == 0 and patch["ridge"]["exclusiveMinimum"] == 0
    assert fields["choice"]["enum"] == ["window", "free"]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_valid_and_names_its_schema(name: str) -> None:
    path = shipped_recipes()[name]
    assert path.read_text().partition("\n")[0] == editor_line(path)
    assert (path.parent / editor_line(path).partition("$schema=")[2]).resolve() == SCHEMA_FILE.resolve()
    assert [error.message for error in VALIDATOR.iter_errors(read_document(name))] == []
    assert [error.message for error in VALIDATOR.iter_errors(load_recipe(name).as_dict())] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["nodes"]["pruned"].update(stage="prunn"),
        lambda document: document["nodes"]["pruned"]["config"].update(num_bloks=1),
        lambda document: document["nodes"]["pruned"]["config"].update(num_blocks=-1),
        lambda document: document["nodes"]["pruned"]["config"].update(choice="windows"),
        lambda document: document["nodes"]["pruned"]["inputs"].update(modell="original"),
        lambda document: document["nodes"]["pruned"]["inputs"].pop("model"),
        lambda document: document["nodes"]["pruned"]["inputs"].update(model=["original", "original"]),
        lambda document: document["nodes"]["original"].pop("config"),
        lambda document: document["nodes"]["pruned"].update(execution="No Pool"),
        lambda document: document.update(node={}),
        lambda document: document.update(nodes={}),
        lambda document: document.update(nodes={"-dash": document["nodes"]["original"]}),
        lambda document: document.update(execution={"prunn": "gpus"}),
        lambda document: document.update(method={"title": "nothing else"}),
    ],
)
def test_what_a_person_mistypes_is_not_valid(change: Callable[[dict[str, Any]], Any]) -> None:
    document = copy.deepcopy(read_document("tiny"))
    assert VALIDATOR.is_valid(document)
    change(document)
    assert not VALIDATOR.is_valid(document)


def test_the_command_prints_it_or_writes_it(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0 and printed.stdout == schema_text()
    written = CliRunner().invoke(app, ["schema", "--output", str(tmp_path / "recipe.schema.json")])
    assert written.exit_code == 0 and (tmp_path / "recipe.schema.json").read_text() == schema_text()
    refused = CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "no" / "where.json")])
    assert refused.exit_code == 1 and len(refused.stderr.strip().splitlines()) == 1
