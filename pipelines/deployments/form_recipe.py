"""The recipe that a filled form stands for: the same nodes a person would write by hand."""

from __future__ import annotations

from typing import Any

from attar.pipelines.deployments.form import CompressForm
from attar.pipelines.recipe.whole import Recipe, build_recipe, override


def recipe_document(form: CompressForm) -> dict[str, Any]:
    """Return the recipe that a form stands for, as YAML content, overrides applied. Raises RecipeError for a wrong override."""
    questions: dict[str, Any] = {"source": form.questions, "heldout_fraction": 0.2, "max_rows": form.num_rows}
    nodes: dict[str, Any] = {
        "original": {"stage": "ingest_model", "config": {"source": form.model}},
        "questions": {"stage": "ingest_data", "config": questions},
        "prose": {"stage": "ingest_data", "config": {"source": "text:shipped/prose.txt"}},
    }
    smaller = _shrink(form, nodes)
    healed = _heal(form, nodes, smaller)
    _measure(form, nodes, healed)
    document = {"name": form.name, "description": "From the form of the compress deployment.", "nodes": nodes}
    for target, value in form.overrides.items():
        override(document, target, value, f"overrides, {target!r}")
    return document


def recipe_of(form: CompressForm) -> Recipe:
    """Return the checked recipe of a form. Raises RecipeError."""
    return build_recipe(recipe_document(form), form.name)


def _shrink(form: CompressForm, nodes: dict[str, Any]) -> str:
    if form.shrink == "nothing":
        return "original"
    inputs: dict[str, Any] = {"model": "original"}
    patch = {"kind": "linear" if form.patch else "none"}
    if form.shrink == "blocks":
        sized = form.block_metric in ("patch_residual", "perplexity_increase", "kl_increase")
        scan: dict[str, Any] = {"metrics": [form.block_metric], "sizes": [form.num_blocks] if sized else []}
        nodes["block_scan"] = {"stage": "scan", "config": scan, "inputs": {"model": "original", "data": "questions"}}
        config: dict[str, Any] = {"num_blocks": form.num_blocks, "metric": form.block_metric, "patch": patch}
        inputs |= {"scan": "block_scan"} | ({"data": "questions"} if form.patch else {})
    else:
        config, inputs = {"size": {"ffn_fraction": form.width_fraction}, "patch": patch}, inputs | {"data": "questions"}
    stage = "prune" if form.shrink == "blocks" else "narrow"
    nodes["smaller"] = {"stage": stage, "config": config, "inputs": inputs}
    return "smaller"


def _heal(form: CompressForm, nodes: dict[str, Any], smaller: str) -> str:
    if form.heal == "none":
        return smaller
    data, objectives = "questions", {"next_token": 1.0}
    if form.rewrite_data:
        data, objectives = "rewritten", {"next_token": 1.0, "forward_kl": 1.0}
        config = {"drawing": {"max_new_tokens": form.max_answer_tokens}}
        nodes[data] = {"stage": "self_data", "config": config, "inputs": {"model": "original", "data": "questions"}}
    low_rank = {"rank": form.adapter_rank, "alpha": 2.0 * form.adapter_rank} if form.heal == "lora" else {}
    training = {
        "adapt": {"kind": form.heal, **low_rank},
        "objectives": objectives,
        "schedule": {"num_epochs": form.num_epochs, "learning_rate": form.learning_rate},
    }
    nodes["student"] = {"stage": "finetune", "config": training, "inputs": {"model": smaller, "data": data}}
    fold = {"base": smaller, "students": ["student"]}
    nodes["healed"] = {"stage": "merge", "config": {"method": "fold"}, "inputs": fold}
    return "healed"


def _measure(form: CompressForm, nodes: dict[str, Any], result: str) -> None:
    measured = {"original_scores": "original", "scores": result}
    release: dict[str, Any] = {"model": result, "evaluation": "scores", "baseline": "original_scores"}
    if form.export_onnx:
        nodes["onnx"] = {"stage": "export", "inputs": {"model": result, "data": "questions"}}
        measured["onnx_scores"] = "onnx"
        release |= {"onnx": "onnx", "onnx_evaluation": "onnx_scores"}
    for node, model in measured.items():
        nodes[node] = {
            "stage": "evaluate",
            "config": {"max_new_tokens": form.max_answer_tokens, "precision": "float32"},
            "inputs": {"model": model, "tasks": ["questions"], "text": "prose"},
        }
    gate = {name: getattr(form, name) for name in ("min_accuracy_retention", "max_perplexity_ratio", "max_size_ratio")}
    config = {"name": form.name, "gate": {name: limit for name, limit in gate.items() if limit}}
    nodes["release"] = {"stage": "register", "config": config, "inputs": release}
