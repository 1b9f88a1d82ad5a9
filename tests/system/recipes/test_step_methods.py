"""Every recipe of a one-step denoiser, planned and run on a tiny net: one step comes nearer to held-out images than before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.store import Store
from tests.system.node_by_node import run_nodes

pytest.importorskip("diffusers", reason="in the extra `images`")
METHODS = [path.stem for path in shipped_recipes().values() if path.parent.name == "steps"]
# judged by a held-out loss, and not by images: a tiny net with most of its tensors frozen draws none that a classifier knows, and what one
# learns from data alone is compared with no net that knew less
BY_LOSS = {"gdd": "endpoint_distance", "ddae": "denoising"}
# of several that take as long as all laws together; `make test-slow` runs the others
QUICKEST = "gdd"
DRAWN = {"num_images": 100, "classifier": {"num_steps": 60, "num_draws": 2}}
COMMON: dict[str, Any] = {
    "digits.max_rows": 600,
    "start.source": "random:unet?sample_size=8&num_classes=10&width=8",
    "teaching.schedule.max_steps": 120,
    "teaching.schedule.tokens_per_step": 32,
    "teaching.schedule.learning_rate": 4e-3,
    "small.source": "random:unet?sample_size=8&num_classes=10&width=8&seed=1",
    "matching.schedule.max_steps": 60,
    "matching.schedule.tokens_per_step": 32,
    **{
        f"{node}.{name}": value
        for node in ("before_in_1", "after_in_1", "before_in_2", "after_in_2")
        for name, value in DRAWN.items()
    },
}
# What makes each recipe small, and to which share of what it was its distance, or its held-out loss, must fall.
SMOKES: dict[str, tuple[dict[str, Any], float]] = {
    "ddae": ({"max_steps": 40, "tokens_per_step": 32, "learning_rate": 4e-3, "average_decay": 0.9}, 0.7),
    "gdd": ({"max_steps": 25, "tokens_per_step": 32, "learning_rate": 2e-3, "average_decay": 0.9}, 0.7),
    "multi-student": ({"max_steps": 40, "tokens_per_step": 32, "learning_rate": 2e-3, "average_decay": 0.9}, 0.9),
    "self-e": ({"max_steps": 120, "tokens_per_step": 32, "learning_rate": 4e-3, "average_decay": 0.9}, 0.95),
    "uni-instruct": ({"max_steps": 40, "tokens_per_step": 32, "learning_rate": 2e-3, "average_decay": 0.9}, 0.9),
}


def test_every_recipe_of_steps_has_a_run_here() -> None:
    assert set(SMOKES) == set(METHODS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for all recipes, which begin with the same denoiser."""
    with pytest.MonkeyPatch.context() as changed:
        home = tmp_path_factory.mktemp("steps") / "home"
        changed.setenv("ATTAR_HOME", str(home))
        yield home


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != QUICKEST)) for name in METHODS]
)
def test_one_step_comes_nearer_to_heldout_images(name: str, home: Path) -> None:
    schedule, share = SMOKES[name]
    trained = {
        f"{node}.schedule.{field}": value for node in ("student", "other_student") for field, value in schedule.items()
    }
    nodes = load_recipe(f"methods/{name}").nodes
    fields = [(*path.split(".", 1), value) for path, value in {**COMMON, **trained}.items()]
    fields = [entry for entry in fields if entry[0] in nodes]
    recipe = load_recipe(
        f"methods/{name}", [f"{node}.config.{rest}={json.dumps(value)}" for node, rest, value in fields]
    )
    recipe = recipe.until("student") if name in BY_LOSS else recipe
    make_plan(recipe, Store(home))
    made = run_nodes(recipe, home)
    if name in BY_LOSS:
        lines = map(json.loads, (made["student"].path / "records" / "metrics.jsonl").read_text().splitlines())
        curve = [entry["value"] for entry in lines if entry["name"] == f"heldout_{BY_LOSS[name]}_nats"]
        assert curve[-1] < share * curve[0], curve
        return
    num_steps = next(int(node.removeprefix("after_in_")) for node in made if node.startswith("after_in_"))
    before, after = (made[f"{time}_in_{num_steps}"].facts["frechet_distance"] for time in ("before", "after"))
    assert made[f"after_in_{num_steps}"].facts["num_forwards"] == num_steps
    assert after < share * before, (before, after)
