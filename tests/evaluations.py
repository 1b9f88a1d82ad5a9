"""Runs with an evaluation in the store, without any model: what tables and comparisons read."""

from __future__ import annotations

import json
from pathlib import Path

from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.store import Slot, Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder


def recorded_run(
    store: Store, recipe: str, blocks: list[int], right: list[float], disk_bytes: int | None = None
) -> RunRecord:
    """A run of a recipe that cut `blocks` and then answered questions, right (1.0) or wrong (0.0)."""
    config = {"blocks": blocks, **({} if disk_bytes is None else {"num_blocks": len(blocks)})}
    key = f"{'-'.join(map(str, blocks))}".rjust(64, "a")
    slot = Slot(stage="evaluate", version=1, config=config, inputs={})
    artifact = store.get_or_build(
        slot, EvaluationArtifact, key, lambda work: _evaluation(work, right, disk_bytes)
    ).artifact
    nodes = {
        "smaller": NodeRecord("prune", config, {}, state="Completed", key="b" * 64, fingerprint=f"{blocks}"),
        "scores": NodeRecord(
            "evaluate", {"max_rows": 20}, {"model": ["smaller"]}, "Completed", artifact.key, artifact.fingerprint
        ),
    }
    record = RunRecord(new_run_folder(store.root, recipe), recipe, "0", nodes, seconds=2.0)
    record.close()
    return record


def _evaluation(work: Path, right: list[float], disk_bytes: int | None) -> EvaluationArtifact:
    accuracy = sum(right) / len(right)
    content = {
        "format": "model",
        "num_blocks": 3,
        "num_parameters": 1000,
        "flops_per_token": 2000.0,
        "tasks": {"sums": accuracy},
        "right": {"sums": right},
        "asked": {"sums": "digest of the questions"},
        "samples": [],
    }
    (work / "content" / "evaluation.json").write_text(json.dumps(content))
    facts = {"accuracy": accuracy, "accuracy_low": accuracy - 0.2, "accuracy_high": min(1.0, accuracy + 0.2)}
    facts |= {} if disk_bytes is None else {"disk_bytes": disk_bytes}
    return EvaluationArtifact.at(work / "content", **facts, num_questions=len(right), num_parameters=1000)
