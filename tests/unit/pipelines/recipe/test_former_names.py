"""Former names of nodes: taken where their successor is, told in one line, and never before a node that has the name itself."""

from __future__ import annotations

import pytest

from attar.pipelines.recipe.former_names import FORMER_NODES, current_node
from attar.pipelines.recipe.whole import RecipeError, load_recipe


@pytest.mark.parametrize("recipe", ["tiny", "recover"])
@pytest.mark.parametrize(("former", "name"), FORMER_NODES.items())
def test_a_former_name_means_its_successor_everywhere(
    recipe: str, former: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    today = load_recipe(recipe, [f"{name}.config.max_rows=3"])
    before = load_recipe(recipe, [f"{former}.config.max_rows=3"])
    assert [record.getMessage() for record in caplog.records] == [
        f"node {former!r} is called {name!r} now; the former name goes with the next version"
    ]
    assert before.fingerprint == today.fingerprint and before.nodes[name].config.max_rows == 3
    assert today.until(former).nodes.keys() == today.until(name).nodes.keys()
    assert today.downstream(former) == today.downstream(name)


def test_a_node_that_has_the_former_name_itself_stays_it() -> None:
    assert current_node("left", {"left", "retention"}) == "left"
    assert current_node("left", {"original"}) == "left" and current_node("other", {"retention"}) == "other"


def test_a_recipe_without_the_successor_refuses_the_former_name() -> None:
    with pytest.raises(RecipeError, match="--until 'left': the recipe has no such node"):
        load_recipe("demo").until("left")
