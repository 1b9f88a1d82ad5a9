"""`shards` of a node: what a recipe may say, and what the plan shows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from attar.pipelines.cli.forecast_table import plan_rows
from attar.pipelines.cli.recipe_schema import recipe_schema
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import Recipe, load_recipe
from attar.registry.artifacts.store import Store

MODEL = {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=2&hidden_size=32&seed=1"}}


def recipe(folder: Path, stage: str = "self_data", config: dict | None = None, **node: Any) -> Recipe:
    rows = folder / "sums.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"What is {a} + 1?", "answer": f"{a + 1}"}) for a in range(24)))
    inputs = {"model": "original"} | ({"data": "sums"} if stage in ("self_data", "record") else {})
    nodes = {
        "original": MODEL,
        "sums": {"stage": "ingest_data", "config": {"source": f"jsonl:{rows}"}},
        "shared": {"stage": stage, "config": config or {}, "inputs": inputs, **node},
    }
    return Recipe.build("shared", nodes)


def test_shards_are_no_part_of_what_is_made(tmp_path: Path) -> None:
    alone, shared = recipe(tmp_path, execution="gpu"), recipe(tmp_path, execution="gpu", shards=3)
    assert shared.fingerprint == alone.fingerprint and shared.nodes["shared"].shards == 3
    assert Recipe.build("shared", shared.as_dict()["nodes"]).nodes["shared"].shards == 3
    jsonschema.validate(shared.as_dict(), recipe_schema())


def test_shards_are_set_like_the_pool() -> None:
    overrides = ["self_data.execution=gpu", "self_data.shards=2"]
    nodes = load_recipe("demo").nodes
    name = next(name for name, node in nodes.items() if node.stage.name == "self_data")
    overrides = [override.replace("self_data", name, 1) for override in overrides]
    assert load_recipe("demo", overrides).nodes[name].shards == 2


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"shards": 0, "execution": "gpu"}, "node 'shared', shards = 0: accepted: 1 to 256"),
        ({"shards": 2.0, "execution": "gpu"}, "node 'shared', shards = 2.0: accepted: 1 to 256"),
        ({"shards": True, "execution": "gpu"}, "node 'shared', shards = True: accepted: 1 to 256"),
        ({"shards": 257, "execution": "gpu"}, "node 'shared', shards = 257: accepted: 1 to 256"),
        ({"shards": 2}, "node 'shared', shards = 2: the node runs in_process; accepted: 1, or execution: a work pool"),
        (
            {"stage": "prune", "config": {"blocks": [1]}, "shards": 2, "execution": "gpu"},
            "node 'shared', shards = 2: one worker does prune whole; accepted: 1, or a node of ",
        ),
    ],
)
def test_shards_that_cannot_be_are_refused(tmp_path: Path, node: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, **node)
    [line] = error.value.lines
    assert line.startswith(message)


def test_the_plan_shows_shards_and_refuses_too_many(tmp_path: Path) -> None:
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.data import ingest_data

    small = {"rows_per_shard": 8, "batch_size": 4}
    shared = recipe(tmp_path, config=small, execution="gpu", shards=3)
    store = Store(tmp_path / "home")
    ingest_data.execute(shared.nodes["sums"].config, NoInputs(), store)  # type: ignore[arg-type]
    plan = make_plan(shared, store)
    assert [row["stage"] for row in plan_rows(plan)][-1] == "self_data, 3 shards"
    assert plan[-1].as_dict()["shards"] == 3
    with pytest.raises(RecipeError) as error:
        make_plan(recipe(tmp_path, config=small, execution="gpu", shards=4), store)
    assert error.value.lines == (
        "node 'shared': shards is 4, but the work comes in 3 pieces of rows_per_shard rows; accepted: 1 to 3",
    )
