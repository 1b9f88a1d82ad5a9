"""The recipe of the self-distilled merge: planned as it ships, and run node by node on a tiny random model."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import Recipe, build_recipe, load_recipe
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.merge.search import dev_rows
from tests.system.node_by_node import run_nodes

MEASURED = ("original", "pruned", "math_student", "everyday_student", "merged")


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    """The shipped recipe with every node and edge, its model and its amounts made small; without the registration at its end."""
    document = yaml.safe_load(shipped_recipes()["self-distilled-merge"].read_text())
    nodes: dict[str, Any] = document["nodes"]
    nodes["original"]["config"] = {"source": "random:llama?num_blocks=3&hidden_size=32"}
    for name, num_rows in (("math", 12), ("math_dev", 8), ("everyday", 12), ("facts", 12)):
        nodes[name]["config"]["max_rows"] = num_rows
    nodes["block_scan"]["config"] = {"calibration": {"num_samples": 4, "max_tokens": 32}}
    nodes["pruned"]["config"] = {"num_blocks": 1}
    for name in ("math_rewritten", "everyday_rewritten", "math_dev_rewritten"):
        nodes[name]["config"] |= {"drawing": {"max_new_tokens": 8}, "batch_size": 8, "rows_per_shard": 8}
    for name in ("math_adapter", "everyday_adapter"):
        nodes[name]["config"] |= {
            "adapt": {"rank": 4, "alpha": 8},
            "schedule": {"num_epochs": 1, "learning_rate": 3.0e-3},
            "compute": {"precision": "float32"},
        }
    nodes["merged"]["config"]["search"] |= {"max_rows": 4, "max_tokens": 32, "precision": "float32"}
    for name in MEASURED:
        nodes[f"{name}_scores"]["config"] = {
            "max_rows": 3,
            "max_new_tokens": 4,
            "num_samples": 0,
            "timing": {"num_prompt_tokens": 8},
        }
    del nodes["release"]
    return build_recipe(document)


def test_the_shipped_recipe_plans(tmp_path: Path) -> None:
    recipe = load_recipe("self-distilled-merge")
    planned = {entry.node.name: entry for entry in make_plan(recipe, Store(tmp_path))}
    largest = 4 * 49152 * 576  # the embedding, read of the base and of two students
    assert planned["merged"].forecast.peak_memory_bytes == pytest.approx(3 * largest + 300e6)
    parents = {recipe.nodes[name].inputs["model"] for name in ("math_adapter", "everyday_adapter")}
    assert parents == {recipe.nodes["merged"].inputs["base"]}, "one pruned parent, the base of the merge too"


def test_two_students_of_one_parent_are_merged_and_all_are_measured(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    artifacts = run_nodes(tiny, tmp_path)
    blocks = {name: artifacts[name].facts["num_blocks"] for name in MEASURED}
    assert blocks == {"original": 3} | dict.fromkeys(MEASURED[1:], 2)
    assert len({artifacts[name].fingerprint for name in MEASURED[:-1]}) == 4
    for name in MEASURED:
        facts = artifacts[f"{name}_scores"].facts
        assert facts.keys() >= {"accuracy", "accuracy_math", "accuracy_facts", "perplexity"}
    with (artifacts["merged"].path / "records" / "trials.csv").open() as stream:
        table = list(csv.DictReader(stream))
    losses = [float(row["loss"]) for row in table]
    assert len(losses) == 5 and table[losses.index(min(losses))]["is_best"] == "1"
    search = tiny.nodes["merged"].config.search  # type: ignore[attr-defined]
    dev = {row.question for row in dev_rows(search, [artifacts[name] for name in ("math_dev_rewritten", "facts")])}  # type: ignore[misc]
    questions = {row.question for name in ("math", "everyday", "facts") for row in question_rows(artifacts[name])}  # type: ignore[arg-type]
    assert dev and questions and not dev & questions, "what the merge was chosen by is not what it is measured on"
