"""Reference of the stages, made of the catalogue: a page a stage with what it reads, makes and is told, and one page of all."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache

from attar.pipelines.cli.describe import describe
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import load_recipe
from attar.stages.catalogue import STAGES
from docs.generate.markdown import code, field_table, prose, table

FOLDER = "reference/stages"
# The unit that the end of a field's name stands for.
UNITS = {
    "_nats": "nats",
    "_seconds": "seconds",
    "_minutes": "minutes",
    "_bytes": "bytes",
    "_fraction": "share of 1",
    "_ratio": "divided by the original's",
    "_tokens": "tokens",
    "_degrees": "degrees",
}
# How a component is written in a recipe, for the type that spells it out.
COMPONENT = "text or mapping of text to mapping of text to anything"
# Of a stage that several workers can share.
SHARED = "**Shards**: workers of a pool can [share it](../../how-to/workers-and-gpus.md#share-a-node-among-workers), in {pieces}."


def stage_pages() -> Iterator[tuple[str, str]]:
    """Yield (path, Markdown) of the page of all stages, then of each."""
    yield f"{FOLDER}/index.md", _overview()
    for name in STAGES:
        yield f"{FOLDER}/{name}.md", _page(name)


def unit(field: str) -> str:
    """Return the unit of a field by the end of its name, empty where it has none."""
    name = field.rpartition(".")[2]
    return next((words for end, words in UNITS.items() if name.endswith(end)), "")


def users(stage: str) -> list[str]:
    """Return the shipped recipes that have a node of a stage."""
    return [name for name, stages in _stages_of_recipes().items() if stage in stages]


@cache
def _stages_of_recipes() -> dict[str, set[str]]:
    return {name: {node.stage.name for node in load_recipe(name).nodes.values()} for name in shipped_recipes()}


def _overview() -> str:
    rows = []
    for name, stage in STAGES.items():
        inputs = ", ".join(slot.name for slot in stage.slots.values()) or "nothing"
        rows.append((f"[{code(name)}]({name}.md)", inputs, stage.makes, stage.summary))
    return "\n\n".join(
        [
            "# Stages",
            "A stage reads artifacts, is told by its config what to do, and makes one artifact. "
            "`attar describe STAGE` prints the same fields in a terminal.",
            table(("stage", "reads", "makes", "what it does"), rows),
            "What each stage proves of its result: [proofs](../../explanation/what-each-stage-proves.md).",
        ]
    )


def _page(name: str) -> str:
    stage = STAGES[name]
    inputs = [
        (
            code(slot.name),
            " or ".join(kind.kind for kind in slot.kinds),
            "one or several" if slot.is_many else "one",
            "required" if slot.is_required else "may be left out",
        )
        for slot in stage.slots.values()
    ]
    parts = [
        f"# {name}",
        prose(inspect.getdoc(stage.run) or ""),
        f"**Makes**: {stage.makes}. **Version**: {stage.version}; a new version builds again what an older one made.",
        *([] if stage.sharding is None else [SHARED.format(pieces=stage.sharding.pieces)]),
        "## Inputs",
        table(("input", "kind", "how many", "needed"), inputs) or "None: it reads the outside world alone.",
        "## Fields",
        fields_table(next(entry for entry in describe(name) if entry["kind"] == "stage")["fields"]) or "None.",
    ]
    used = [f"[{code(recipe)}](../recipes/{recipe}.md)" for recipe in users(name)]
    if used:
        parts += ["## Used by", "Recipes " + ", ".join(used) + "." if len(used) > 1 else f"Recipe {used[0]}."]
    return "\n\n".join(parts)


def fields_table(fields: list[dict[str, str]]) -> str:
    """Return a table of fields: name, what it takes with its unit, default, meaning."""
    rows = []
    for field in fields:
        takes = field["takes"].replace(f"{COMPONENT} or list of {COMPONENT}", "component, or a list of them")
        takes = takes.replace(COMPONENT, "component")
        measure = unit(field["field"])
        default = field["default"] if field["default"] in ("required", "its fields' own") else code(field["default"])
        rows.append(
            (
                _named(field["field"]),
                f"{takes} ({measure})" if measure and measure not in takes else takes,
                default,
                prose(field["what"]),
            )
        )
    return field_table(("field", "takes", "default", "what it means"), rows)


def _named(field: str) -> str:
    """Return a field's name as code, behind it the kinds that have it: `adapt.rank` (lora, rslora, dora)."""
    name, _, kinds = field.partition(" (")
    return f"{code(name)} ({kinds.rstrip(')').replace(' | ', ', ')})" if kinds else code(name)
