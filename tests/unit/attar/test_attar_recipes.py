"""Recipes built in Python: the same as from YAML, checked as whole, and back to YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import attar
from attar.pipelines.recipe.file import shipped_recipes

NODES = {
    "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=4"}},
    "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
}


def test_python_and_yaml_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "nodes": NODES}))
    built = attar.Recipe.build("mine", NODES)
    by_arguments = attar.Recipe.build(
        "mine",
        {
            "original": attar.node("ingest_model", source="random:llama?num_blocks=4"),
            "smaller": attar.node("prune", model="original", blocks=[1]),
        },
    )
    assert built.fingerprint == by_arguments.fingerprint == attar.load_recipe(path).fingerprint


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_written_and_read_again_is_the_same(name: str, tmp_path: Path) -> None:
    recipe = attar.load_recipe(name)
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    again = attar.load_recipe(path)
    assert (again.fingerprint, again.name, again.description, again.card) == (
        recipe.fingerprint,
        recipe.name,
        recipe.description,
        recipe.card,
    )


def test_a_pool_stays_with_its_node() -> None:
    recipe = attar.Recipe.build("mine", NODES, execution={"prune": "gpus"})
    assert recipe.nodes["smaller"].execution == "gpus"
    assert recipe.as_dict()["nodes"]["smaller"]["execution"] == "gpus"


def test_building_changes_nothing_that_was_given() -> None:
    before = yaml.safe_dump(NODES)
    recipe = attar.Recipe.build("mine", NODES)
    attar.plan(recipe, overrides=["smaller.config.blocks=[2]"])
    assert yaml.safe_dump(NODES) == before and recipe.nodes["smaller"].config.blocks == [1]  # type: ignore[attr-defined]


def test_a_field_that_bears_an_inputs_name_is_given_as_config() -> None:
    node = attar.node("evaluate", model="smaller", config={"max_rows": 3}, tasks=["sums"])
    assert node == {"stage": "evaluate", "config": {"max_rows": 3}, "inputs": {"model": "smaller", "tasks": ["sums"]}}
