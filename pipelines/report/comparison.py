"""The tables of a run. Every evaluated model beside the first one, what each retains by task, and what each is worth as a draft."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import HIGH, LOW
from attar.registry.release.gate import Ratio, known
from attar.registry.tracking.run_record import RunRecord
from attar.stages.evaluate.paired_evaluations import accuracy_ratio, paired_ratios


@dataclass(frozen=True)
class Column:
    """One number of the table: its heading, the factor and digits it is shown with, and whether lower is better."""

    heading: str
    metric: str
    factor: float
    digits: int
    is_lower_better: bool
    # of what was measured, not of a model: two of them make no ratio
    is_count: bool = False


COLUMNS = (
    Column("accuracy %", "accuracy", 100.0, 1, False),
    Column("questions", "num_questions", 1.0, 0, False, is_count=True),
    Column("perplexity", "perplexity", 1.0, 2, True),
    Column("text tokens", "num_text_tokens", 1.0, 0, False, is_count=True),
    Column("parameters M", "num_parameters", 1e-6, 1, True),
    Column("MFLOPs/token", "flops_per_token", 1e-6, 0, True),
    Column("disk MB", "disk_bytes", 1e-6, 0, True),
    Column("prefill ms", "prefill_seconds", 1e3, 0, True),
    Column("decode ms/token", "decode_seconds_per_token", 1e3, 1, True),
)
# Shown where a model has them: an encoder, a classifier or a tagger, which have few of the others.
ENCODER_COLUMNS = (
    Column("macro F1", "macro_f1", 1.0, 3, False),
    Column("span F1", "span_f1", 1.0, 3, False),
    Column("words tagged right %", "token_accuracy", 100.0, 1, False),
    Column("calibration error", "calibration_error", 1.0, 3, True),
    Column("Spearman", "spearman", 1.0, 3, False),
    Column("pairs", "num_pairs", 1.0, 0, False, is_count=True),
    Column("MRR", "mrr", 1.0, 3, False),
    Column("nDCG@10", "ndcg_10", 1.0, 3, False),
    Column("queries", "num_queries", 1.0, 0, False, is_count=True),
    Column("ms a text", "embed_seconds", 1e3, 2, True),
    Column("ms 32 texts", "embed_seconds_32", 1e3, 1, True),
)
# And an image classifier.
IMAGE_COLUMNS = (
    Column("accuracy by class %", "macro_accuracy", 100.0, 1, False),
    Column("rare classes %", "tail_accuracy", 100.0, 1, False),
    Column("AUROC", "auroc", 1.0, 3, False),
    Column("ECE", "calibration_error", 1.0, 3, True),
    Column("MFLOPs/image", "flops_per_image", 1e-6, 0, True),
    Column("ms an image", "image_seconds", 1e3, 2, True),
    Column("ms 32 images", "image_seconds_32", 1e3, 1, True),
    # of a denoiser
    Column("Frechet distance", "frechet_distance", 1.0, 3, True),
    Column("recall", "recall", 1.0, 3, False),
    Column("forwards an image", "num_forwards", 1.0, 0, True),
    Column("linear probe %", "linear_probe_accuracy", 100.0, 1, False),
    Column("k-NN %", "knn_accuracy", 100.0, 1, False),
)
# And a model that fills masks.
MASKED_COLUMNS = (
    Column("passes a text", "forwards_per_text", 1.0, 1, True),
    Column("tokens a pass", "tokens_per_forward", 1.0, 2, False),
    Column("ms a text alone", "text_seconds", 1e3, 0, True),
)


# What is told of a served model, of each number of clients: heading, name within the metric, digits, whether lower is better.
SERVED_COLUMNS = (("tokens/s", "tokens_per_second", 1, False), ("s/request", "request_seconds", 2, True))


def stored_artifact(record: RunRecord, store: Store, node: str) -> Artifact | None:
    """Return the artifact a node made, if the node finished and the artifact is still there."""
    entry = record.nodes[node]
    return store.load(entry.stage, entry.key) if entry.key and store.holds(entry.stage, entry.key) else None


def evaluations(record: RunRecord, store: Store) -> dict[str, dict[str, Any]]:
    """Return each evaluate node's content with its headline facts, by the name of the model it measured, the baseline first."""
    baseline = next((n.inputs["baseline"][0] for n in record.nodes.values() if n.inputs.get("baseline")), None)
    names = [name for name, node in record.nodes.items() if node.stage == "evaluate"]
    names.sort(key=lambda name: name != baseline)
    by_node = {}
    for name in names:
        artifact = stored_artifact(record, store, name)
        if artifact is not None:
            content = json.loads((artifact.path / "evaluation.json").read_text())
            by_node[record.nodes[name].inputs["model"][0]] = {**content, "facts": dict(artifact.facts)}
    return by_node


def comparison_rows(record: RunRecord, store: Store) -> list[dict[str, str]]:
    """Return one row a model with its numbers as text. Each has its interval and in brackets the ratio to the first's.

    Of times the ends are quartiles; a ratio of two times that says more of the machine than of the models is told as that.
    """
    rows: list[dict[str, str]] = []
    by_node = evaluations(record, store)
    baseline = next(iter(by_node.values()), {})
    columns = columns_of(list(by_node.values()))
    for model, evaluation in by_node.items():
        ratios = paired_ratios(evaluation, baseline) if rows else {}
        rows_of = ", on the rows for choices" if evaluation.get("part") == "choose" else ""
        row = {"model": f"{model} ({_form(evaluation)}, {evaluation['num_blocks']} blocks{rows_of})"}
        for column in columns:
            facts, ratio = evaluation["facts"], ratios.get(column.metric)
            row[column.heading] = _cell(column, facts, baseline["facts"], ratio) if rows else _figure(column, facts)
        rows.append(row)
    return rows


def columns_of(measured: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of a table. Those of causal models, of other subjects what is theirs, and two a number of clients served."""
    own = [
        column
        for column in (*ENCODER_COLUMNS, *IMAGE_COLUMNS, *MASKED_COLUMNS)
        if any(column.metric in some["facts"] for some in measured)
    ]
    numbers = {clients for some in measured for clients in (some.get("served") or {}).get("clients", ())}
    served = [
        Column(
            f"{heading}, {clients} client{'s' * (clients != '1')}", f"served_{name}_{clients}", 1.0, digits, is_lower
        )
        for clients in sorted(numbers, key=int)
        for heading, name, digits, is_lower in SERVED_COLUMNS
    ]
    if not own:
        return [*COLUMNS, *served]
    return [*own, *(column for column in COLUMNS if any(column.metric in some["facts"] for some in measured)), *served]


def warnings(record: RunRecord, store: Store) -> list[str]:
    """Return a line for each time that nothing can be read from."""
    by_node = evaluations(record, store)
    baseline = next(iter(by_node.values()), {})
    return [
        f"{model}: {name.removesuffix('_per_token').replace('_', ' ')}: {ratio.undecided}; no ratio is told"
        for model, evaluation in list(by_node.items())[1:]
        for name, ratio in paired_ratios(evaluation, baseline).items()
        if ratio.undecided
    ]


def _cell(column: Column, facts: Facts, first: Facts, ratio: Ratio | None) -> str:
    """Return a figure with its interval, and what it is of the first model's."""
    text, value, other = _figure(column, facts), facts.get(column.metric), first.get(column.metric)
    if value is None or not other or column.is_count:
        return text
    if ratio is None:
        return f"{text} ({float(value) / float(other):.2f}x)"
    if ratio.undecided:
        return f"{text} (no ratio)"
    return f"{text} ({ratio.value:.2f}x {known(ratio.low, ratio.high)}".rstrip() + ")"


def _figure(column: Column, facts: Facts) -> str:
    if column.metric not in facts:
        return ""
    numbers = [
        float(facts[name]) * column.factor
        for name in (column.metric, column.metric + LOW, column.metric + HIGH)
        if name in facts
    ]
    texts = [f"{number:,.{column.digits}f}" for number in numbers]
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else "")


def retained_shares(record: RunRecord, store: Store) -> dict[str, dict[str, Ratio]]:
    """Return accuracy divided by the first model's, by model and task, for every other model, torch and ONNX alike."""
    by_node = evaluations(record, store)
    if len(by_node) < 2:
        return {}
    first, *others = by_node
    baseline = {task: value for task, value in by_node[first]["tasks"].items() if value}
    return {
        model: {
            task: accuracy_ratio(by_node[model], by_node[first], task) or Ratio(by_node[model]["tasks"][task] / value)
            for task, value in baseline.items()
            if task in by_node[model]["tasks"]
        }
        for model in others
    }


def retention_rows(record: RunRecord, store: Store) -> list[dict[str, str]]:
    """Return one row a task with the share of the first model's accuracy that each other keeps. A graph next to the model it came from."""
    shares, by_node = retained_shares(record, store), evaluations(record, store)
    tasks = list(dict.fromkeys(task for some in shares.values() for task in some))
    rows = []
    for task in tasks:
        ratio = next(some[task] for some in shares.values() if task in some)
        row = {"task": task, "asked": ratio.measured_on}
        for model, some in shares.items():
            row[f"{model} ({_form(by_node[model])})"] = _share(some[task]) if task in some else ""
        rows.append(row)
    return rows


def _share(ratio: Ratio) -> str:
    interval = f" [{ratio.low:.1%}, {ratio.high:.1%}]" if ratio.low is not None and ratio.high is not None else ""
    return f"{ratio.value:.1%}{interval}"


def draft_rows(record: RunRecord, store: Store) -> list[dict[str, str]]:
    """Return one row a model and draft length: what it came to when it drafted for the original."""
    return [
        {
            "draft": model,
            "tokens drafted": str(entry["draft_length"]),
            "accepted": f"{entry['acceptance_fraction']:.1%}",
            "tokens a step": f"{entry['tokens_per_step']:.2f}",
            "times as fast": f"{entry['gain']:.2f}" + ("" if entry["gain"] > 1 else " (no gain here)"),
            "texts that differ": f"{entry['num_different_texts']} of {entry['num_prompts']} ({entry['dtype']})",
        }
        for model, evaluation in evaluations(record, store).items()
        for entry in evaluation.get("speculation", [])
    ]


def _form(evaluation: dict[str, Any]) -> str:
    form: str = evaluation["format"]
    return {
        "model": "torch",
        "encoder": "torch",
        "classifier": "torch",
        "tagger": "torch",
        "encoder_onnx": "onnx",
        "classifier_onnx": "onnx",
        "tagger_onnx": "onnx",
        "image_classifier": "torch",
        "image_onnx": "onnx",
    }.get(form, form)
