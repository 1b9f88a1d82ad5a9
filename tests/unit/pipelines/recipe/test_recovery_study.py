"""The recovery study's recipes: every arm of every size and seed loads and can be planned, and all that train have the same budget."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attar.pipelines.recipe.plan import PlannedNode, make_plan
from attar.pipelines.recipe.whole import Recipe, build_recipe
from attar.registry.artifacts.store import Store
from attar.stages.ingest.tiny_model import random_model

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "benchmarks" / "recovery"
NUM_BLOCKS, STEPS, ROWS = 30, 48, 300
CASES = [(num_removed, seed) for num_removed in range(2, 11) for seed in range(3)]
FILES = ("gsm8k/train", "gsm8k/test", "arc_easy/test", "csqa/train", "csqa/dev", "articles", "prose", "wiki")
FILES += ("asked", "solutions", "choices", "instructions")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The study's modules, imported as its scripts import each other; forgotten afterwards, as their names are common ones."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as changed:
        changed.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in ("arms", "healing")}
    for name in {path.stem for path in FOLDER.glob("*.py")} - before:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in `model`, and files that stand for the data sets."""
    folder = tmp_path_factory.mktemp("study")
    model, tokenizer = random_model("llama", num_blocks=NUM_BLOCKS, hidden_size=32)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in FILES:
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"question": f"What is in {name}?", "answer": "this"}))
    (folder / "wikitext2").mkdir()
    for name in ("valid", "test"):
        (folder / "wikitext2" / f"{name}.txt").write_text(f"A text to {name}.")
    return folder


Made = tuple[Recipe, dict[str, PlannedNode]]


@pytest.fixture(scope="module")
def study(scripts: dict[str, ModuleType], folder: Path) -> Callable[[int, int], Made]:
    """What the study runs of a size and seed, and its plan: all arms with the first seed, those that train with the others."""
    arms = scripts["arms"]

    @cache
    def make(num_removed: int, seed: int) -> Made:
        chosen = [arm for arm in arms.ARMS if seed == 0 or arm not in arms.UNTRAINED]
        document = arms.recipe(
            str(folder / "model"),
            folder,
            folder / "instructions.jsonl",
            num_blocks=NUM_BLOCKS,
            num_removed=num_removed,
            seed=seed,
            steps=STEPS,
            rows=ROWS,
            num_questions=150,
            text_tokens=12288,
            arms=chosen,
        )
        return planned(document, folder)

    return make


def planned(document: dict[str, Any], folder: Path) -> Made:
    """Return a recipe and its plan by node."""
    recipe = build_recipe(document)
    return recipe, {entry.node.name: entry for entry in make_plan(recipe, Store(folder / "home"))}


def roots(recipe: Recipe, name: str) -> set[str]:
    """Return the nodes of data that a node's data was made from."""
    node = recipe.nodes[name]
    if node.stage.name == "ingest_data":
        return {name}
    return {
        root
        for slot in ("data", "tasks", "texts")
        for parent in node.inputs.get(slot, ())
        for root in roots(recipe, parent)
    }


def budget(config: Any) -> dict[str, Any]:
    """Return all settings of a schedule but how wide its steps are and where it starts."""
    parts = {name: getattr(config, name).model_dump() for name in ("schedule", "heldout", "checkpoints", "compute")}
    settings = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    settings["rows.max_tokens"] = config.rows.max_tokens
    free = ("schedule.learning_rate", "schedule.seed", "compute.vocabulary_sample")
    return {name: value for name, value in settings.items() if name not in free}


@pytest.mark.parametrize(("num_removed", "seed"), CASES)
def test_arms_that_train_have_one_budget_and_nothing_that_is_measured_on(
    scripts: dict[str, ModuleType], study: Callable[[int, int], Made], num_removed: int, seed: int
) -> None:
    arms, (recipe, _) = scripts["arms"], study(num_removed, seed)
    trained = {name: node for name, node in recipe.nodes.items() if node.stage.name == "finetune"}
    learning = set(arms.ARMS) - set(arms.UNTRAINED) - set(arms.MERGES)
    assert {name.removesuffix("_adapter") for name in trained} == learning
    first, *others = (budget(node.config) for node in trained.values())
    assert all(other == first for other in others)
    assert (first["schedule.max_steps"], first["schedule.tokens_per_step"], first["heldout.patience"]) == (
        STEPS,
        1024,
        0,
    )
    for name, node in trained.items():
        start = seed + (arms.OTHER_START if name == "second_start_adapter" else 0)
        assert node.config.schedule.seed == start, name
        for source in roots(recipe, name) - {"texts"}:
            assert recipe.nodes[source].config.max_rows == ROWS, (name, source)
    read = set().union(*(roots(recipe, name) for name in trained))
    compared = [node for node in recipe.nodes.values() if node.stage.name == "compare"]
    measured = set().union(*(roots(recipe, node.name) for node in compared))
    assert read == {"math", "talk", "texts"}
    sources = [{recipe.nodes[name].config.source for name in names} for names in (read, measured)]
    assert not sources[0] & sources[1]
    assert {arm for node in compared for arm in node.config.names} == {
        arm for arm in arms.ARMS if seed == 0 or arm not in arms.UNTRAINED
    }


@pytest.mark.parametrize("num_removed", range(2, 11))
def test_arms_of_a_size_have_lost_as_much(
    scripts: dict[str, ModuleType], study: Callable[[int, int], Made], num_removed: int
) -> None:
    _, plan = study(num_removed, 0)
    for arm in scripts["arms"].ARMS:
        wanted = NUM_BLOCKS if arm.startswith("thinner") else NUM_BLOCKS - num_removed
        assert plan[arm].forecast.facts["num_blocks"] == wanted, arm
    for arm in ("thinner", "thinner_refitted"):
        assert plan[arm].node.config.size.equal_to_blocks == num_removed


@pytest.mark.parametrize(("num_removed", "seed"), CASES)
def test_the_long_healing_is_one_training_of_all_that_is_read(
    scripts: dict[str, ModuleType], folder: Path, num_removed: int, seed: int
) -> None:
    reading = {
        name: folder / f"{name}.jsonl" for name in ("articles", "prose", "wiki", "asked", "solutions", "choices")
    }
    document = scripts["healing"].recipe(
        str(folder / "model"),
        folder,
        reading,
        folder / "instructions.jsonl",
        blocks=list(range(1, 1 + num_removed)),
        steps=800,
        learning_rate=3e-4,
        seed=seed,
    )
    recipe, plan = planned(document, folder)
    [training] = [node for node in recipe.nodes.values() if node.stage.name == "finetune"]
    schedule, rows = training.config.schedule, training.config.rows
    assert (schedule.max_steps, schedule.tokens_per_step, schedule.seed) == (800, 1024, seed)
    assert sum(rows.shares) == pytest.approx(1.0) and len(rows.shares) == 6
    assert plan["folded"].forecast.facts["num_blocks"] == NUM_BLOCKS - num_removed
    assert roots(recipe, training.name) >= {"articles", "prose", "wiki", "solutions", "choices"}


def test_every_arm_and_difference_of_the_recorded_study_is_built(
    scripts: dict[str, ModuleType], study: Callable[[int, int], Made]
) -> None:
    arms = scripts["arms"]
    result = json.loads((ROOT / "benchmarks" / "results" / "recovery-6.json").read_text())
    nodes = study(arms.SEEDED_SIZE, 0)[0].nodes
    named = {row[0] for table in result["tables"] for row in table["rows"]}
    differences = [name.split(" minus ") for name in named if " minus " in name]
    assert {name for name in named if " minus " not in name} - {"original"} == set(arms.ARMS) <= set(nodes)
    described = dict(line.removeprefix("- ").split(": ", 1) for line in result["lines"] if line.startswith("- "))
    assert described == arms.ARMS
    assert differences
    for arm, other in differences:
        assert other in arms.AGAINST[arm], (arm, other)
