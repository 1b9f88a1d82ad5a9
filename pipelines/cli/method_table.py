"""What a method of the literature is made of, read from its recipe: for the reference and the listing."""

from __future__ import annotations

from typing import cast

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import Recipe, load_recipe
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.objective_spec import Component, ObjectiveSpec, listed, spec_of, split_component
from attar.stages.ingest.model import IngestModelConfig

FOLDER = "methods/"
# What every recipe has, and says nothing of a method.
PLAIN_STAGES = ("ingest_model", "ingest_data", "ingest_images", "prune", "scan", "merge", "finetune", "sample")
# The node in which a method's own objective is trained.
OWN_NODE = "student"


def method_recipes() -> dict[str, Recipe]:
    """Return the recipes that are methods of the literature, by name."""
    return {name: load_recipe(name) for name in shipped_recipes() if name.startswith(FOLDER)}


def composition(recipe: Recipe) -> str:
    """Return what a recipe is made of: its own stages, then objectives, teacher sources, context and rollout of the training."""
    stages = dict.fromkeys(node.stage.name for node in recipe.nodes.values())
    parts = [", ".join(f"`{name}`" for name in stages if name not in PLAIN_STAGES)]
    assert recipe.nodes[OWN_NODE].stage.name == "finetune", "a method trains"
    own = cast(FinetuneConfig, recipe.nodes[OWN_NODE].config)
    parts += [f"adapt {own.adapt.kind}"] if own.adapt.stands_before or own.adapt.kind == "elastic" else []
    parts.append(" + ".join(_objective(name, entry) for name, entry in own.objectives.items()))
    spelt = own.model_dump(include={"teacher", "past", "anchor", "rollout"})
    teacher = spelt["teacher"]
    kinds = {
        "teacher": teacher.get("rule", teacher)["kind"],
        "past": spelt["past"]["kind"],
        "anchor": spelt["anchor"]["kind"],
        "teacher context": teacher.get("context", {"kind": "none"})["kind"],
    }
    parts += [f"{name} {kind}" for name, kind in kinds.items() if kind not in ("auto", "none")]
    if "teacher" in recipe.nodes[OWN_NODE].inputs:
        parts.append("teacher input")
    if patterns := getattr(own.adapt, "freeze", ()):
        parts.append(f"frozen {', '.join(patterns)}")
    if own.adapt.exits:
        parts.append(f"exits after {', '.join(map(str, own.adapt.exits))} blocks")
    if spelt["rollout"]["kind"] != "data":
        parts.append(f"rollout {spelt['rollout']['kind']}")
    return "; ".join(part for part in parts if part)


def kind_of_model(recipe: Recipe) -> str:
    """Return the kind of model that a recipe begins with, in words."""
    first = next(node for node in recipe.nodes.values() if node.stage.name == "ingest_model")
    return cast(IngestModelConfig, first.config).model.kind.replace("_", " ")


def readable(test: str) -> str:
    """Return a test's name as words."""
    return test.rpartition("::")[2].removeprefix("test_").replace("_", " ")


def _objective(name: str, entry: float | ObjectiveSpec) -> str:
    spec = spec_of(entry)
    if spec is None:
        return name
    text = split_component(spec.divergence)[0]
    if spec.target != "identity":
        text += f" toward {_target(spec.target)}"
    weights = [*listed(spec.token_weight), *([spec.sample_weight] if spec.sample_weight else [])]
    if weights:
        text += f" by {', '.join(split_component(weight)[0] for weight in weights)}"
    if spec.route != "all":
        text += f" ({spec.route})"
    if spec.reduction != "token":
        text += f", mean of each {spec.reduction} first"
    changes = [split_component(component)[0] for component in listed(spec.schedule)]
    return f"{text} with {', '.join(changes)}" if changes else text


def _target(component: Component) -> str:
    name, params = split_component(component)
    sources = [str(params[key]) for key in ("of", "first", "second") if key in params]
    return f"{name}({', '.join(sources)})" if sources else name
