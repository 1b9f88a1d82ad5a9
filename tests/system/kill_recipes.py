"""The recipes in which the kill tests kill: a stage of each kind that a kill could hurt, each as small as it can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.stages.merge.test_rejoin import whole_folder

DRAW = {"max_new_tokens": 6, "precision": "float32"}
TRIAL = {
    "adapt": {"rank": 4},
    "schedule": {"max_steps": 2, "tokens_per_step": 256},
    "compute": {"tokens_per_micro_batch": 256},
    "heldout": {"patience": 0, "stop_on": "quality"},
}


def everyday_nodes(folder: Path) -> dict[str, Any]:
    """Remove, heal, measure and register: a stage of each kind that a kill could hurt, and no more."""
    sums = [{"question": f"What is {a} plus {a}?", "answer": f"It is {2 * a}."} for a in range(24)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)))
    (folder / "prose.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    training = {
        "adapt": {"rank": 2},
        "schedule": {"max_steps": 10, "tokens_per_step": 256},
        "compute": {"tokens_per_micro_batch": 256},
        "heldout": {"every": 1000},
        "checkpoints": {"every": 1},
    }
    small = {"timing": {"num_prompt_tokens": 8}}
    return {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=4&hidden_size=64&seed=0"}},
        "sums": {"stage": "ingest_data", "config": {"source": "jsonl:sums.jsonl", "heldout_fraction": 0.25}},
        "prose": {"stage": "ingest_data", "config": {"source": "text:prose.txt"}},
        "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
        "student": {"stage": "finetune", "config": training, "inputs": {"model": "smaller", "data": ["sums"]}},
        "before": {"stage": "evaluate", "config": small, "inputs": {"model": "original", "text": "prose"}},
        "after": {"stage": "evaluate", "config": small, "inputs": {"model": "smaller", "text": "prose"}},
        "release": {
            "stage": "register",
            "config": {"name": "everyday", "gate": {"max_size_ratio": 0.95}},
            "inputs": {"model": "smaller", "evaluation": "after", "baseline": "before"},
        },
    }


def planned_nodes(folder: Path) -> dict[str, Any]:
    """Measure candidates of every axis, and carry a plan over all of them out, repaired and priced by trials."""
    nodes = everyday_nodes(folder)
    rows = {"num_samples": 8, "max_tokens": 32}
    axes = ["depth", "seams", "channels", "groups", "hidden", "rotated"]
    plan = {"plan": {"budget": {"parameters": 0.7}, "trials": True}, "patch": {"kind": "refit", **rows}}
    return {
        "original": nodes["original"],
        "sums": nodes["sums"],
        "candidates": {
            "stage": "scan",
            "config": {"candidates": {"axes": axes}, "calibration": rows},
            "inputs": {"model": "original", "data": "sums"},
        },
        "planned": {
            "stage": "prune",
            "config": plan,
            "inputs": {"model": "original", "scan": "candidates", "data": ["sums"]},
        },
    }


def rare_nodes(tiny: Path) -> dict[str, Any]:
    """One node a stage, each as small as it can be, and what it reads."""

    def node(stage: str, config: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
        return {"stage": stage, "config": config or {}, "inputs": inputs}

    models = {
        name: node("ingest_model", {"source": f"folder:{tiny / name}"}) for name in ("weak", "strong", "coder", "other")
    }
    pictures = tiny / "pictures"
    if not pictures.exists():
        whole_folder("smolvlm", pictures)
    source = {"source": f"jsonl:{tiny / 'questions.jsonl'}", "heldout_fraction": 0.25, "verifier": "contains"}
    return models | {
        "questions": node("ingest_data", source),
        "snippets": node("ingest_data", {"source": f"jsonl:{tiny / 'snippets.jsonl'}", "heldout_fraction": 0.25}),
        "attempts": node("answer", {**DRAW, "num_samples": 4, "keep": "all"}, model="weak", data="questions"),
        "revisions": node("revise", {**DRAW, "num_samples": 8}, model="weak", data="questions"),
        "skills": node("learn_skills", {"max_new_tokens": 8}, model="weak", data="questions", attempts="attempts"),
        "chosen": node("choose_answers", {"by": "edit_distance", "num_kept": 2}, data="attempts"),
        "grades": node("grade", model="weak", data="attempts"),
        "judged": node("judge", {"keep_best": 1}, model="weak", data="attempts"),
        "chunks": node("align", teacher="strong", student="other", data="questions"),
        "trial": node("finetune", TRIAL, model="weak", data=["chosen"]),
        "other_trial": node("finetune", TRIAL | {"seed": 1}, model="weak", data=["attempts"]),
        "best": node("choose_teacher", data=["chosen", "attempts"], trials=["trial", "other_trial"]),
        "compressor": node(
            "finetune",
            {
                **TRIAL,
                "adapt": {"kind": "compressor", "num_vectors": 2, "num_blocks": 1, "num_sets": 1},
                "objectives": {"forward_kl": 1.0},
                "teacher": {
                    "kind": "self",
                    "rule": {"kind": "base"},
                    "context": {"kind": "demonstrations", "num_shown": 1},
                },
                "heldout": {"patience": 0},
            },
            model="strong",
            data=["questions"],
        ),
        "condensed": node("condense", {"num_shown": 2}, model="strong", compressor="compressor", data="questions"),
        "share": node(
            "fit_share", {"precision": "float32"}, on_labels="strong", on_teacher="other_labels", data="questions"
        ),
        "other_labels": node("prune", {"blocks": [2]}, model="strong"),
        # the one whose tokenizer has words
        "trimmed": node("trim_vocabulary", model="other", data=["questions"]),
        "mixture": node("ingest_model", {"source": "random:mixtral?num_blocks=2&hidden_size=32"}),
        "fewer_experts": node(
            "prune_experts",
            {"num_experts": 4, "calibration": {"num_samples": 8, "precision": "float32"}},
            model="mixture",
            data="questions",
        ),
        "behaviour": node(
            "check_behaviour",
            {"max_cases": 4, "max_new_tokens": 6, "precision": "float32"},
            model="other_labels",
            original="strong",
        ),
        "tower": node("ingest_model", {"source": f"tower:{pictures}"}),
        "cut_tower": node("prune", {"blocks": [2]}, model="tower"),
        "rejoined": node("rejoin", {"source": f"tower:{pictures}"}, model="cut_tower"),
        "tasks": node(
            "compose_tasks",
            {"num_samples": 2, "num_shots": 0, "max_new_tokens": 90, "precision": "float32"},
            model="coder",
            data="snippets",
        ),
    }


def subject_nodes() -> dict[str, Any]:
    """One node a stage that takes images, denoisers or pairs of sentences, and what it reads."""
    sentences = {"question": "sentence1", "answer": "sentence2", "similarity": "score"}
    encoder = {"source": "random:bert?hidden_size=32&num_blocks=2", "model": {"kind": "encoder"}}
    noise = {"source": "random:unet?sample_size=8&num_classes=10&width=8", "model": {"kind": "denoiser"}}
    drawing = {"num_steps": 1, "num_images": 20, "classifier": {"num_steps": 20, "num_draws": 5}}
    net = {"source": "random:resnet?num_channels=1&num_blocks=2", "model": {"kind": "image_classifier"}}
    pool = {"source": "digits:", "max_rows": 300, "columns": {"label": ""}, "heldout_fraction": 0.0}
    chosen = {"data": "pool", "teacher": "net", "protected": "digits"}
    return {
        "digits": {"stage": "ingest_images", "config": {"source": "digits:", "heldout_fraction": 0.3}},
        "net": {"stage": "ingest_model", "config": net},
        "pool": {"stage": "ingest_images", "config": pool},
        "selected": {"stage": "select_images", "config": {"max_distance": 0}, "inputs": chosen},
        "deep_net": {"stage": "ingest_model", "config": {**net, "source": "random:resnet?num_channels=1&num_blocks=4"}},
        "searched": {
            "stage": "search_blocks",
            "config": {"num_steps": 20, "batch_size": 8, "checkpoint_every": 5, "voting": {"every": 5}},
            "inputs": {"model": "deep_net", "data": "digits"},
        },
        "noise": {"stage": "ingest_model", "config": noise},
        "drawn": {"stage": "sample", "config": drawing, "inputs": {"model": "noise", "data": "digits"}},
        "encoder": {"stage": "ingest_model", "config": encoder},
        "sentences": {
            "stage": "ingest_data",
            "config": {"source": "jsonl:shipped/sentences.jsonl", "columns": sentences, "heldout_fraction": 0.3},
        },
        "labelled": {"stage": "label_pairs", "inputs": {"models": ["encoder"], "data": "sentences"}},
        "tagger": {
            "stage": "ingest_model",
            "config": {"source": "random:bert?num_blocks=2", "model": {"kind": "tagger", "labels": ["Part", "Fault"]}},
        },
        "reports": {
            "stage": "ingest_data",
            "config": {"source": "jsonl:shipped/repairs.jsonl", "columns": {"question": "text", "spans": "spans"}},
        },
        "spanned": {"stage": "label_spans", "inputs": {"model": "tagger", "data": "reports"}},
    }
