"""Reference of methods and objective components, made of their catalogues: a page a family, with every parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from attar.pipelines.cli.describe import describe
from attar.pipelines.cli.listing import CATALOGUES
from docs.generate.markdown import code, prose, slug, table
from docs.generate.stages import fields_table

FOLDER = "reference/methods"
# What a family is for, in a line, and where a recipe names it.
FAMILIES = {
    "block metric": "Scores that choose which blocks go; field `metric` of `prune`.",
    "width score": "Scores that choose which channels and heads go; field `score` of `narrow`.",
    "image width score": "Scores that choose which channels, heads and widths of an image classifier go; field `score` of `narrow`.",
    "expert method": "Which experts stay, or become one; field `method` of `prune_experts`.",
    "verifier": "How an answer is checked; field `verifier` of `ingest_data`.",
    "chooser": "Which of several answers stays; field `drawing.choose` of `self_data`.",
    "adapt method": "What is trained; field `adapt` of `finetune`.",
    "objective": "Objectives that need no parameters: in `objectives` of `finetune`, a name with its weight.",
    "divergence": "How far the student is from its target, in nats a token; part `divergence` of an objective.",
    "embedding loss": "Between the vectors of texts; in `objectives` of `finetune`, a name with its weight, with parameters its part `divergence`.",
    "class loss": "Toward the labels of rows; in `objectives` of `finetune`, a name with its weight, with parameters its part `divergence`.",
    "image augmentation": "How images are changed at every step; in `rows.augment` of `finetune`.",
    "denoising loss": "Of denoisers; in `objectives` of `finetune`, a name with its weight, with parameters its part `divergence`.",
    "image loss": "Of image classifiers, with heads of their own that go with the training; named like a class loss.",
    "target": "What the student is to become; part `target` of an objective.",
    "token weight": "How much each token counts; part `token_weight` of an objective.",
    "sample weight": "How much each sequence counts; part `sample_weight` of an objective.",
    "schedule": "How an objective changes while training goes on; part `schedule` of an objective.",
    "source": "The student as its own teacher: rules of `teacher`, `past` and `anchor` of `finetune`.",
    "teacher context": "What the teacher reads that the student does not; field `context` of its `teacher`.",
    "rollout": "Who writes what is learned; field `rollout` of `finetune`.",
    "hiding rule": "Which tokens of a block a student that fills masks learns at a step; field `rows.masks.hide` of `finetune`.",
    "fill rule": "Which masks a pass fills; field `timing.fills` of `evaluate`.",
    "merge method": "How several models become one; field `method` of `merge`.",
    "guidance branch": "What the other branch of guidance lacks; field `unguided` of `guide_data`.",
    "guidance adapter": "What learns guidance on the frozen base; field `adapter` of `guide`.",
    "quantization": "How integers are chosen for weights; field `method` of `quantize`.",
    "adapter merge": "How several adapters become one; field `method` of `merge_adapters`.",
}


def method_pages() -> Iterator[tuple[str, str]]:
    """Yield (path, Markdown) of the page of all families, then of each."""
    yield f"{FOLDER}/index.md", _overview()
    for family in CATALOGUES:
        yield f"{FOLDER}/{slug(family)}.md", _page(family)


def _overview() -> str:
    rows = [
        (f"[{family}]({slug(family)}.md)", len(methods), FAMILIES.get(family, ""))
        for family, methods in CATALOGUES.items()
    ]
    return "\n\n".join(
        [
            "# Methods and components",
            "A method is a name with parameters. Where a recipe takes one, it is written `name`, or `{name: {parameter: value}}`. "
            "An objective is put together from components: "
            "[how](../../how-to/compose-an-objective.md). `attar describe METHOD` prints one in a terminal.",
            table(("family", "methods", "what it is for"), rows),
        ]
    )


def _page(family: str) -> str:
    parts = [f"# {family.capitalize()}", FAMILIES.get(family, "")]
    for name, method in CATALOGUES[family].items():
        entry = next(entry for entry in describe(name) if entry["kind"] == family)
        parts += [f"## {name}", prose(entry["text"])]
        if dataclasses.is_dataclass(method) and entry["fields"]:
            parts.append(fields_table(entry["fields"]))
        else:
            parts.append(f"{code(name)} has no parameters.")
    return "\n\n".join(part for part in parts if part)
