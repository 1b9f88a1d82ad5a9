"""Reference of the shipped recipes: a page a recipe with its picture, its nodes and its file; of a method also paper and tests."""

from __future__ import annotations

from collections.abc import Iterator

from attar.pipelines.cli.method_table import FOLDER as METHODS
from attar.pipelines.cli.method_table import composition, kind_of_model, method_recipes, readable
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import Recipe, load_recipe
from docs.generate.graph import recipe_svg
from docs.generate.markdown import code, prose, slug, table

FOLDER = "reference/recipes"


def recipe_pages() -> Iterator[tuple[str, str]]:
    """Yield (path, Markdown) of the page of all recipes, of the table of methods, and of each recipe."""
    recipes = {name: load_recipe(name) for name in shipped_recipes()}
    yield f"{FOLDER}/index.md", _overview(recipes)
    yield f"{FOLDER}/literature.md", _literature()
    for name, recipe in recipes.items():
        yield f"{FOLDER}/{name}.md", _page(name, recipe)


def _overview(recipes: dict[str, Recipe]) -> str:
    own = [
        (f"[{code(name)}]({name}.md)", len(recipe.nodes), recipe.description)
        for name, recipe in recipes.items()
        if not name.startswith(METHODS)
    ]
    literature = [
        (f"[{code(name)}]({name}.md)", f"[{recipe.card.title}]({recipe.card.paper})", recipe.description)
        for name, recipe in recipes.items()
        if recipe.card
    ]
    return "\n\n".join(
        [
            "# Recipes",
            "Recipes that ship with Attar run by name: `attar run tiny`. One of your own is a YAML file, given by its path. "
            "`attar plan NAME` says what a run would reuse and build.",
            table(("recipe", "nodes", "what it does"), own),
            "## Methods of the literature",
            "What each is composed of, what of it is our own guess, and which tests hold it: [table](literature.md).",
            table(("recipe", "paper", "what it does"), literature),
        ]
    )


def _literature() -> str:
    parts = [
        "# Methods of the literature",
        "Each is a recipe. Its defaults are those of the paper where a laptop can bear them. What no source says is named under "
        "*reconstructed*. Each is held by the tests named, and by a run on tiny models that must get better on held-out rows.",
    ]
    for name, recipe in method_recipes().items():
        card = recipe.card
        assert card is not None, "a recipe of that folder has a card; a test holds it"
        parts += [
            f"## {card.title}",
            f"Recipe [{code(name)}]({name}.md), of models of kind {code(kind_of_model(recipe))}, paper {prose(card.paper)}.",
            f"**Composed of**: {composition(recipe)}.",
            f"**Reconstructed**: {card.reconstructed}",
            f"**Tested by**: {'; '.join(readable(test) for test in card.tests)}.",
        ]
    return "\n\n".join(parts)


def _page(name: str, recipe: Recipe) -> str:
    up = "../" * name.count("/")
    nodes = [
        (
            code(node.name),
            f"[{code(node.stage.name)}]({up}../stages/{node.stage.name}.md)",
            ", ".join(f"{slot}: {' + '.join(names)}" for slot, names in node.inputs.items()) or "nothing",
        )
        for node in recipe.nodes.values()
    ]
    parts = [f"# {name}", recipe.description, f"```bash\nattar run {name}\n```"]
    parts.append(f'<div class="recipe-picture">{recipe_svg(recipe)}</div>')
    if recipe.card:
        title = recipe.card.title
        parts.append(f"{prose(recipe.card.paper)}: [what is reconstructed]({up}literature.md#{slug(title)}).")
    text = shipped_recipes()[name].read_text().strip()
    parts += ["## Nodes", table(("node", "stage", "reads"), nodes), "## File", f"```yaml\n{text}\n```"]
    return "\n\n".join(part for part in parts if part)
