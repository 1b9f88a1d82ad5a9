"""Methods of the literature as recipes: each says what it is, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from attar.pipelines.cli.listing import list_methods
from attar.pipelines.cli.method_table import composition, method_recipes, readable
from attar.pipelines.recipe.file import RecipeError, shipped_recipes
from attar.pipelines.recipe.whole import build_recipe

ROOT = Path(__file__).parents[4]
METHODS = [name for name in shipped_recipes() if name.startswith("methods/")]


@pytest.mark.parametrize("name", METHODS)
def test_card_names_a_paper_and_tests_that_exist(name: str) -> None:
    recipe = method_recipes()[name]
    assert recipe.card is not None and recipe.name == name.removeprefix("methods/")
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", recipe.card.paper)
    assert recipe.card.tests and recipe.card.reconstructed.endswith(".")
    for test in recipe.card.tests:
        path, _, function = test.partition("::")
        names = {
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert function in names, test


def test_composition_names_components_sources_and_rollout() -> None:
    recipe = method_recipes()["methods/srpo"]
    assert composition(recipe) == (
        "clipped_ratio (correct) + reverse_kl by entropy (wrong); teacher ema; teacher context sibling; rollout student"
    )
    frozen = composition(method_recipes()["methods/gdd"])
    assert frozen == (
        "endpoint_distance + adversarial + discriminator; teacher input; frozen *.conv1.*, *.conv2.*, *samplers.*, *.to_out.*"
    )
    assert readable("tests/a.py::test_it_is_so") == "it is so"


def test_methods_are_listed_and_low_rank_ones_say_what_differs() -> None:
    rows = list_methods()
    assert [row["method"] for row in rows if row["catalogue"] == "preset"] == METHODS
    models = {row["method"]: row["model"] for row in rows}
    kinds = ("causal", "classifier", "denoiser", "denoiser", "")
    assert tuple(map(models.get, ("methods/srpo", "methods/lelp", "methods/gdd", "adversarial", "slerp"))) == kinds
    low_rank = {row["method"]: row["what"] for row in rows if row["catalogue"] == "adapt method"}
    lines = [low_rank[name] for name in ("lora", "rslora", "dora")]
    assert len(set(lines)) == 3 and all(lines)


def test_methods_of_images_are_listed_with_their_kind_of_model() -> None:
    kinds = {row["method"]: row["model"] for row in list_methods()}
    assert {kinds[f"methods/{name}"] for name in ("sla", "mdcs", "ssld", "lsskd", "taylor-channels")} == {
        "image classifier"
    }
    assert (kinds["methods/gkd"], kinds["label_augmentation"], kinds["slerp"]) == ("causal", "image classifier", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": ""}, "recipe, method: paper is missing; accepted: all of title, paper, reconstructed, tests"),
        ({"url": "x"}, "recipe, method: url: unknown field"),
    ],
)
def test_a_card_with_a_gap_is_refused(change: dict, message: str) -> None:
    document = yaml.safe_load(shipped_recipes()["methods/adpo"].read_text())
    document["method"] |= change
    with pytest.raises(RecipeError, match=re.escape(message)):
        build_recipe(document)
