"""The arms of the recovery study as one recipe a size and seed: what they share is built once, and an interrupted study goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

Node = dict[str, Any]
# arm -> what it is, in the order of the tables
ARMS = {
    "pruned": "the window with the lowest angular distance removed",
    "patched": "the same, patched in closed form",
    "reversed": "the last blocks removed",
    "thinner": "width instead of depth, at equal parameters, patched",
    "sft": "pruned, then LoRA on the human answers",
    "self_data": "pruned, then LoRA on the original's rewrites",
    "self_data_kl": "the same, and KL toward the original's recorded candidates",
    "patched_self_data_kl": "patched first, then the same",
    "math_student": "the same, of the first data set alone",
    "talk_student": "the same, of the second data set alone",
    "merged": "SLERP of those two students",
    "merged_fifth": "the same with a fifth of the second",
    "merged_searched": "the same at the share whose model finds the rewrites of both data sets likeliest",
    "summed": "what both students learned added to their parent (task arithmetic)",
    "second_start": "patched_self_data_kl with the rows in another order and the adapters started elsewhere",
    "merged_starts": "SLERP of patched_self_data_kl and second_start",
    "patched_full_kl": "patched, then all weights from the cut on, KL alone on all tokens of text, prompts and rewrites",
    "thinner_full_kl": "width instead of depth, patched, then all weights, KL alone on the same tokens",
    "refitted": "pruned, then every block from the cut on refitted in closed form on text, prompts and rewrites",
    "refitted_full_kl": "refitted, then all weights from the cut on, KL alone on the same tokens",
    "thinner_refitted": "width instead of depth, then every block refitted in the same way",
    "thinner_refitted_full_kl": "that, then all weights, KL alone on the same tokens",
}
UNTRAINED = ("pruned", "patched", "reversed", "thinner", "refitted", "thinner_refitted")
# Arms by the node that compares them: one that comes later need not measure all others anew.
COMPARED = {
    "left": [arm for arm in ARMS if "refitted" not in arm],
    "left_refitted": [arm for arm in ARMS if "refitted" in arm],
}
# What is merged, by arm, besides the base: each of its students is trained where a merge is asked for.
BY_DATA = ("math_student", "talk_student")
STUDENTS: dict[str, tuple[str, ...]] = {
    "merged": BY_DATA,
    "merged_fifth": BY_DATA,
    "merged_searched": BY_DATA,
    "summed": BY_DATA,
    "merged_starts": ("patched_self_data_kl", "second_start"),
}
MERGES: dict[str, Node] = {
    "merged": {"method": "slerp", "params": {"t": 0.5}},
    "merged_fifth": {"method": "slerp", "params": {"t": 0.2}},
    "merged_searched": {"method": "slerp", "search": {"grid": {"t": [0.1, 0.2, 0.3, 0.4, 0.5]}, "max_rows": 32}},
    "summed": {"method": "task_arithmetic"},
    "merged_starts": {"method": "slerp", "params": {"t": 0.5}},
}
# Whom an arm has to beat: told as differences on the same texts.
AGAINST = {"self_data": ("sft",), "self_data_kl": ("sft", "self_data")} | STUDENTS
# Between the seeds of one arm's two starts: beyond any list of seeds, so that no start is that of another seed.
OTHER_START = 1000

# Blocks removed where several seeds are run, and where the answers that a model writes are checked.
SEEDED_SIZE = 6


def recipe(
    model: str,
    data: Path,
    instructions: Path,
    *,
    num_blocks: int,
    num_removed: int,
    seed: int,
    steps: int,
    rows: int,
    num_questions: int,
    text_tokens: int,
    precision: str = "auto",
    models_at_once: int = 0,
    arms: Sequence[str] = tuple(ARMS),
) -> Node:
    """Return the recipe of one size and seed.

    Trained arms take the same number of steps of 1,024 tokens. `rows`: of each data set to learn from; `num_questions`: of each task;
    `text_tokens`: of plain text to compare on, and one in 300 of it for the original's own answers. `precision`: of training and
    measuring; what is learned from, scans, patches and refits stay as they are. `models_at_once`: arms in memory while they are
    compared, beside the original; 0: all.
    """
    nodes = shared_nodes(model, data, instructions, rows) | cuts(num_blocks, num_removed)
    # the blocks before the cut are run once for all steps: twice the tokens in the same minutes
    adapter = {"adapt": {"kind": "lora", "rank": 16, "blocks": "after_cut"}, "objectives": {"next_token": 1.0}}
    with_kl = adapter | {"objectives": {"next_token": 1.0, "forward_kl": 1.0}}
    full = {
        "adapt": {"kind": "full", "blocks": "after_cut"},
        "objectives": {"forward_kl": 1.0},
        "rows": {"learn": "all", "shares": [0.5, 0.3, 0.2]},
    }
    rewrites, recorded = ["math_rewritten", "talk_rewritten"], ["math_recorded", "talk_recorded"]
    trained = {
        "sft": ("pruned", ["math", "talk"], adapter),
        "self_data": ("pruned", rewrites, adapter),
        "self_data_kl": ("pruned", recorded, with_kl),
        "patched_self_data_kl": ("patched", recorded, with_kl),
        "patched_full_kl": ("patched", ["texts_recorded", *recorded], full),
        # every block is narrower, so none can be frozen
        "thinner_full_kl": ("thinner", ["texts_recorded", *recorded], full | {"adapt": {"kind": "full"}}),
        "refitted_full_kl": ("refitted", ["texts_recorded", *recorded], full),
        "thinner_refitted_full_kl": (
            "thinner_refitted",
            ["texts_recorded", *recorded],
            full | {"adapt": {"kind": "full"}},
        ),
        "math_student": ("patched", ["math_recorded"], with_kl),
        "talk_student": ("patched", ["talk_recorded"], with_kl),
        "second_start": ("patched", recorded, with_kl),
    }
    needed = {*arms, *(arm_read for arm in arms for arm_read in STUDENTS.get(arm, ()))}
    for arm, (base, sources, options) in trained.items():
        if arm in needed:
            start = seed + (OTHER_START if arm == "second_start" else 0)
            # a refitted student is close already: steps as wide as the others' would first lead it away
            learning_rate = 1.0e-4 if base in ("refitted", "thinner_refitted") else 5.0e-4
            schedule = {"max_steps": steps, "learning_rate": learning_rate, "seed": start}
            nodes |= student(arm, base, sources, options | {"compute": {"precision": precision}}, schedule)
    for arm, options in MERGES.items():
        if arm in arms:
            parts: dict[str, Any] = {
                "base": "patched",
                "students": [f"{arm_read}_adapter" for arm_read in STUDENTS[arm]],
            }
            if "search" in options:
                parts["dev"] = recorded
            nodes[arm] = node("merge", parts, **options)
    for name, some in COMPARED.items():
        chosen = [arm for arm in some if arm in arms]
        if not chosen:
            continue
        inputs = {
            "model": chosen,
            "original": "original",
            "tasks": ["gsm8k", "instructions", "arc_easy", "csqa", "facts"],
            "texts": ["wikitext"],
        }
        measured = {
            "names": chosen,
            "against": {arm: others for arm, others in AGAINST.items() if {arm, *others} <= {*chosen}},
            "max_rows": num_questions,
            "max_text_tokens": text_tokens,
            "num_own_answers": max(1, text_tokens // 300),
            "batch_size": 4,
            "models_at_once": models_at_once,
            "precision": precision,
        }
        nodes[name] = node("compare", inputs, **measured)
    for arm in [name for name in ("original", "pruned", "thinner") if name in ("original", *arms)]:
        nodes[f"{arm}_cost"] = node("evaluate", {"model": arm, "text": "prose"}, num_samples=0, precision=precision)
    if seed == 0 and num_removed == SEEDED_SIZE:
        for arm in ("original", *arms):
            inputs = {"model": arm, "tasks": ["gsm8k"]}
            greedy = {"num_samples": 0, "max_new_tokens": 192, "batch_size": 64, "precision": precision}
            nodes[f"{arm}_answers"] = node("evaluate", inputs, **greedy)
    wanted = [name for name in nodes if name in arms or name.startswith("left") or name.endswith(("_cost", "_answers"))]
    built_from = needed_by(nodes, wanted)
    nodes = {name: node for name, node in nodes.items() if name in built_from}
    return {"name": f"recovery-{num_removed}-seed-{seed}", "nodes": nodes}


def needed_by(nodes: dict[str, Node], wanted: Sequence[str]) -> set[str]:
    """Return the nodes that the wanted ones are built from, and those themselves."""
    needed: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            for source in nodes[name]["inputs"].values():
                waiting += [source] if isinstance(source, str) else source
    return needed


def model_config(model: str) -> dict[str, Any]:
    """Return the config of `ingest_model` for a model folder, or the one that a YAML file holds."""
    return yaml.safe_load(Path(model).read_text()) if model.endswith(".yaml") else {"source": f"folder:{model}"}


def blocks_of(model: str) -> int:
    """Return how many blocks a model has, as its folder says, or what the YAML file expects of it."""
    if model.endswith(".yaml"):
        return model_config(model)["expect"]["num_blocks"]
    return json.loads((Path(model) / "config.json").read_text())["num_hidden_layers"]


def measured_nodes(model: str, data: Path, instructions: Path) -> dict[str, Node]:
    """Return the original, and the test parts that its students are set beside it on."""
    return {
        "original": node("ingest_model", **model_config(model)),
        "wikitext": node("ingest_data", source=f"text:{data / 'wikitext2/test.txt'}", name="wikitext_test"),
        "gsm8k": rows_of(data / "gsm8k/test.jsonl", "gsm8k_test", max_rows=64, heldout_fraction=0.0, verifier="number"),
        "instructions": rows_of(instructions, "instructions", heldout_fraction=0.0),
        "arc_easy": rows_of(data / "arc_easy/test.jsonl", "arc_easy", heldout_fraction=0.0),
        "csqa": rows_of(data / "csqa/dev.jsonl", "csqa", heldout_fraction=0.0),
        "facts": node("ingest_data", source="jsonl:shipped/facts.jsonl", name="facts", heldout_fraction=0.0),
    }


def shared_nodes(model: str, data: Path, instructions: Path, rows: int) -> dict[str, Node]:
    """Return the original, the training data with and without its rewriter's marks, and what is measured on."""
    nodes = measured_nodes(model, data, instructions) | {
        "math": rows_of(data / "gsm8k/train.jsonl", "gsm8k_train", max_rows=rows, verifier="number"),
        "talk": rows_of(data / "csqa/train.jsonl", "csqa_train", max_rows=rows),
        "texts": node("ingest_data", source=f"text:{data / 'wikitext2/valid.txt'}", name="wikitext_valid"),
        "prose": node("ingest_data", source="text:shipped/prose.txt"),
        "texts_recorded": node("record", {"model": "original", "data": "texts"}, max_rows=2 * rows),
        "block_scan": node("scan", {"model": "original", "data": "texts_recorded"}),
    }
    for name in ("math", "talk"):
        inputs = {"model": "original", "data": name}
        nodes[f"{name}_rewritten"] = node(
            "self_data", inputs, drawing={"max_new_tokens": 192}, recorded={"num_candidates": 0}
        )
        nodes[f"{name}_recorded"] = node("record", {"model": "original", "data": f"{name}_rewritten"})
    return nodes


def cuts(num_blocks: int, num_removed: int) -> dict[str, Node]:
    """Return the arms that train nothing."""
    last = list(range(num_blocks - num_removed, num_blocks))
    scanned = {"model": "original", "scan": "block_scan"}
    size = {"equal_to_blocks": num_removed, "multiple_of": 1}
    rows = ["texts_recorded", "math_recorded", "talk_recorded"]
    return {
        "pruned": node("prune", scanned, num_blocks=num_removed),
        "patched": node(
            "prune", scanned | {"data": "texts_recorded"}, num_blocks=num_removed, patch={"kind": "linear"}
        ),
        "reversed": node("prune", {"model": "original"}, blocks=last),
        "thinner": node(
            "narrow",
            {"model": "original", "data": "texts_recorded"},
            size=size,
            patch={"kind": "linear"},
        ),
        "refitted": node(
            "prune", scanned | {"data": rows}, num_blocks=num_removed, patch={"kind": "refit", "num_samples": 96}
        ),
        "thinner_refitted": node(
            "narrow",
            {"model": "original", "data": rows},
            size=size,
            patch={"kind": "refit"},
            calibration={"num_samples": 96},
        ),
    }


def student(arm: str, base: str, sources: list[str], options: Node, schedule: Node) -> dict[str, Node]:
    """Return the nodes of one trained arm: its adapter, and the plain model it folds into."""
    budget = {
        "schedule": {"num_epochs": 100, "tokens_per_step": 1024, **schedule},
        "heldout": {"every": 50, "patience": 0},
    }
    return {
        f"{arm}_adapter": node("finetune", {"model": base, "data": sources}, **budget, **options),
        arm: node("merge", {"base": base, "students": [f"{arm}_adapter"]}),
    }


def rows_of(path: Path, name: str, **options: Any) -> Node:
    return node("ingest_data", source=f"jsonl:{path}", name=name, **options)


def node(stage: str, inputs: dict[str, Any] | None = None, **config: Any) -> Node:
    return {"stage": stage, "config": config, "inputs": inputs or {}}
