"""The table of methods in the README, made of the recipes themselves: `python -m attar.pipelines.cli.method_table` prints it."""

from __future__ import annotations

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import Recipe, load_recipe
from attar.stages.finetune.objective_spec import ObjectiveSpec, Plug, listed, spec_of, split_plug

FOLDER = "methods/"
# What every recipe has, and says nothing of a method.
PLAIN_STAGES = ("ingest_model", "ingest_data", "prune", "scan", "merge", "finetune")
# The node in which a method's own objective is trained.
OWN_NODE = "student"
HEADER = "| method | paper | composed of | reconstructed | tested by |\n|---|---|---|---|---|"


def method_recipes() -> dict[str, Recipe]:
    """Return the recipes that are methods of the literature, by name."""
    return {name: load_recipe(name) for name in shipped_recipes() if name.startswith(FOLDER)}


def method_table() -> str:
    """Return the table as Markdown, a row a method."""
    rows = []
    for name, recipe in method_recipes().items():
        card = recipe.card
        assert card is not None, "a recipe of that folder has a card; a test holds it"
        number = card.paper.rstrip("/").rpartition("/")[2]
        tests = "; ".join(readable(one) for one in card.tests)
        rows.append(
            f"| {card.title}: `{name}` | [{number}]({card.paper}) | {composition(recipe)} | {card.reconstructed} | {tests} |"
        )
    return "\n".join([HEADER, *rows])


def composition(recipe: Recipe) -> str:
    """Return what a recipe is made of: its own stages, then objectives, parties, context and rollout of the training."""
    stages = dict.fromkeys(node.stage.name for node in recipe.nodes.values())
    parts = [", ".join(f"`{name}`" for name in stages if name not in PLAIN_STAGES)]
    own = recipe.nodes[OWN_NODE].config
    assert recipe.nodes[OWN_NODE].stage.name == "finetune", "a method trains"
    parts.append(" + ".join(_objective(name, entry) for name, entry in own.objectives.items()))
    for field, default in (("teacher", "auto"), ("past", "none"), ("anchor", "none"), ("teacher_context", "none")):
        plug = getattr(own, field)
        if plug != default:
            parts.append(f"{field.replace('_', ' ')} {split_plug(plug)[0]}")
    if "teacher" in recipe.nodes[OWN_NODE].inputs:
        parts.append("teacher input")
    if own.rollout != "data":
        parts.append(f"rollout {split_plug(own.rollout)[0]}")
    return "; ".join(part for part in parts if part)


def readable(test: str) -> str:
    """Return a test's name as words."""
    return test.rpartition("::")[2].removeprefix("test_").replace("_", " ")


def _objective(name: str, entry: float | ObjectiveSpec) -> str:
    spec = spec_of(entry)
    if spec is None:
        return name
    said = split_plug(spec.divergence)[0]
    if spec.target != "identity":
        said += f" toward {_target(spec.target)}"
    weights = [*listed(spec.token_weight), *([spec.sample_weight] if spec.sample_weight else [])]
    if weights:
        said += f" by {', '.join(split_plug(one)[0] for one in weights)}"
    if spec.route != "all":
        said += f" ({spec.route})"
    if spec.reduction != "token":
        said += f", mean of each {spec.reduction} first"
    changes = [split_plug(one)[0] for one in listed(spec.schedule)]
    return f"{said} with {', '.join(changes)}" if changes else said


def _target(plug: Plug) -> str:
    name, params = split_plug(plug)
    parties = [str(params[key]) for key in ("of", "first", "second") if key in params]
    return f"{name}({', '.join(parties)})" if parties else name


if __name__ == "__main__":
    print(method_table())
