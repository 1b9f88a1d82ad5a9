"""What `attar list` and `attar show` print."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rich.tree import Tree

from attar.compressors.adapt.catalogue import ADAPT_METHODS, DIFFERENCES
from attar.compressors.data.choose import CHOOSERS
from attar.compressors.distill.examples.rollouts import ROLLOUTS
from attar.compressors.distill.heads.catalogue import IMAGE_LOSSES
from attar.compressors.distill.losses.classes import CLASS_LOSSES
from attar.compressors.distill.losses.denoising.catalogue import DENOISING_LOSSES
from attar.compressors.distill.losses.divergences.catalogue import CHUNKWISE, DIVERGENCES, LISTWISE
from attar.compressors.distill.losses.divergences.hidden import HIDDEN_LOSSES
from attar.compressors.distill.losses.embeddings.catalogue import EMBEDDING_LOSSES
from attar.compressors.distill.losses.objectives import OBJECTIVES
from attar.compressors.distill.losses.targets.target_ops import TARGETS
from attar.compressors.distill.losses.weights.coefficients import COEFFICIENT_SCHEDULES
from attar.compressors.distill.losses.weights.sample_weights import SAMPLE_WEIGHTS
from attar.compressors.distill.losses.weights.token_weights import TOKEN_WEIGHTS
from attar.compressors.distill.teachers.contexts import CONTEXTS
from attar.compressors.distill.teachers.sources import SELF_RULES
from attar.compressors.guidance.branches import BRANCHES
from attar.compressors.guidance.catalogue import GUIDANCE_ADAPTERS
from attar.compressors.images.augment import AUGMENTATIONS
from attar.compressors.masked.filling import FILL_RULES
from attar.compressors.masked.hiding import HIDING_RULES
from attar.compressors.merge.adapters import ADAPTER_MERGES
from attar.compressors.merge.methods import MERGE_METHODS
from attar.compressors.prune.channels.scores import IMAGE_WIDTH_SCORES
from attar.compressors.prune.depth.metrics import BLOCK_METRICS
from attar.compressors.prune.experts.methods import EXPERT_METHODS
from attar.compressors.prune.width.scores import WIDTH_SCORES
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.pipelines.cli.method_table import kind_of_model, method_recipes
from attar.pipelines.cli.run_listing import list_logs, list_runs
from attar.pipelines.recipe.file import RecipeError, shipped_recipes
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.facts import fact_text
from attar.registry.artifacts.lineage import Ancestor
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.catalogue import STAGES

CATALOGUES: dict[str, dict[str, type]] = {
    "block metric": BLOCK_METRICS,
    "width score": WIDTH_SCORES,
    "image width score": IMAGE_WIDTH_SCORES,
    "expert method": EXPERT_METHODS,
    "verifier": ANSWER_CHECKS,
    "chooser": CHOOSERS,
    "adapt method": ADAPT_METHODS,
    "objective": OBJECTIVES,
    "divergence": {**DIVERGENCES, **LISTWISE, **CHUNKWISE, **HIDDEN_LOSSES},
    "embedding loss": EMBEDDING_LOSSES,
    "class loss": CLASS_LOSSES,
    "image augmentation": AUGMENTATIONS,
    "denoising loss": DENOISING_LOSSES,
    "image loss": IMAGE_LOSSES,
    "target": TARGETS,
    "token weight": TOKEN_WEIGHTS,
    "sample weight": SAMPLE_WEIGHTS,
    "schedule": COEFFICIENT_SCHEDULES,
    "source": SELF_RULES,
    "teacher context": CONTEXTS,
    "rollout": ROLLOUTS,
    "hiding rule": HIDING_RULES,
    "fill rule": FILL_RULES,
    "merge method": MERGE_METHODS,
    "adapter merge": ADAPTER_MERGES,
    "guidance branch": BRANCHES,
    "guidance adapter": GUIDANCE_ADAPTERS,
    "quantization": WEIGHT_METHODS,
}
# The kind of model that a catalogue's rows are for, where it is one alone.
KINDS_OF_MODEL = {
    "image width score": "image classifier",
    "embedding loss": "encoder",
    "class loss": "classifier",
    "image augmentation": "image classifier",
    "denoising loss": "denoiser",
    "image loss": "image classifier",
}


def list_stages() -> list[dict[str, Any]]:
    """Return each stage with its inputs and its output."""
    rows = []
    for stage in STAGES.values():
        inputs = [
            f"{slot.name}: {'|'.join(kind.kind for kind in slot.kinds)}{'*' if slot.is_many else ''}{'' if slot.is_required else '?'}"
            for slot in stage.slots.values()
        ]
        rows.append(
            {
                "stage": stage.name,
                "inputs": ", ".join(inputs) or "-",
                "makes": stage.makes,
                "what": stage.summary,
            }
        )
    return rows


def list_methods() -> list[dict[str, Any]]:
    """Return every method of every catalogue, and the methods of the literature that are made of them."""
    components = [
        {
            "catalogue": catalogue,
            "method": name,
            "model": KINDS_OF_MODEL.get(catalogue, ""),
            "what": DIFFERENCES.get(name) or _first_line(method),
        }
        for catalogue, table in CATALOGUES.items()
        for name, method in table.items()
    ]
    presets = [
        {
            "catalogue": "preset",
            "method": name,
            "model": kind_of_model(recipe),
            "what": f"{recipe.description} {recipe.card.paper if recipe.card else ''}",
        }
        for name, recipe in method_recipes().items()
    ]
    return [*components, *presets]


def list_recipes() -> list[dict[str, Any]]:
    """Return the shipped recipes."""
    rows = []
    for name, path in shipped_recipes().items():
        try:
            recipe = load_recipe(str(path))
            rows.append({"recipe": name, "nodes": len(recipe.nodes), "what": recipe.description})
        except RecipeError as error:
            rows.append({"recipe": name, "nodes": 0, "what": f"does not load: {error}"})
    return rows


def list_artifacts() -> list[dict[str, Any]]:
    """Return what lies in the store, newest first, and last what is damaged there."""
    store = Store(attar_home())
    damaged = dict(store.damaged())
    rows = []
    for artifact in store.artifacts():
        if artifact.path.parent in damaged:
            continue
        manifest = store.manifest(artifact)
        rows.append(
            {
                "key": artifact.key[:12],
                "kind": artifact.kind,
                "stage": manifest["stage"],
                "MB": f"{manifest['num_bytes'] / 1e6:,.1f}",
                "created": manifest["created"],
                "facts": ", ".join(f"{name}={_short(value)}" for name, value in list(artifact.facts.items())[:4]),
            }
        )
    for folder, reason in damaged.items():
        row = {"key": folder.name[:12], "kind": "damaged", "stage": folder.parent.name, "MB": "-", "created": "-"}
        rows.append({**row, "facts": reason})
    return rows


LISTINGS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "stages": list_stages,
    "methods": list_methods,
    "recipes": list_recipes,
    "artifacts": list_artifacts,
    "runs": list_runs,
    "logs": list_logs,
}
# What the marks of a table mean, below it.
NOTES = {
    "stages": "a|b: either; *: one or several; ?: may be left out. `attar describe STAGE` has its fields.",
    "methods": "`attar describe METHOD` has its parameters.",
    "artifacts": "damaged: built again by the run that needs it, or deleted by `attar gc`. `attar show KEY` has all of one.",
    "runs": "nodes: done of all; killed: its process is gone. `attar status RUN` has the nodes.",
}
# What to do where there is nothing to list yet.
EMPTY = {
    "artifacts": "nothing is stored under {home} yet: `attar run tiny` fills it within a minute",
    "runs": "nothing has been run under {home} yet: `attar run tiny` takes a minute",
    "logs": "no run and no service has written a log under {home} yet",
}


def lineage_tree(lineage: Ancestor) -> Tree:
    """Return a lineage as a tree for the terminal."""
    tree = Tree(_label(lineage), highlight=False)
    _grow(tree, lineage)
    return tree


def _grow(tree: Tree, ancestor: Ancestor) -> None:
    for parent in ancestor.inputs:
        _grow(tree.add(_label(parent)), parent)


def _label(ancestor: Ancestor) -> str:
    via = f"{ancestor.via}: " if ancestor.via else ""
    return f"{via}{ancestor.stage} {ancestor.key[:12]} ({ancestor.kind}{'' if ancestor.is_present else ', collected'})"


def _first_line(method: type) -> str:
    return (inspect.getdoc(method) or "").partition("\n")[0]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else fact_text(value)[:40]
