"""What the tests of methods data and own answers share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.finetune.config import FinetuneConfig

QUICK = FinetuneConfig(
    schedule={"tokens_per_step": 512},
    compute={"precision": "float32", "tokens_per_micro_batch": 2048},
    heldout={"patience": 0},
)


def dataset(folder: Path, rows: Sequence[Row], **facts: Any) -> DatasetArtifact:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    num_heldout = sum(row.split == "heldout" for row in rows)
    known = {"name": "given", "num_rows": len(rows), "num_heldout": num_heldout, "num_recorded": 0, **facts}
    return DatasetArtifact(folder, known, key=f"given-{folder.name}", fingerprint=f"given-{folder.name}")


def rows_of(data: DatasetArtifact) -> list[Row]:
    return read_rows(data.path / "rows.jsonl")


def sums(num: int = 8, verifier: str = "contains", reference: str = "yes") -> list[Row]:
    return [
        Row(
            id=f"{i:03d}",
            question=f"{i}?",
            answer=reference,
            verifier=verifier,
            split="heldout" if i % 4 == 0 else "train",
        )
        for i in range(num)
    ]


def run(stage: Any, config: Any, inputs: Any, tmp_path: Path, name: str = "work") -> Any:
    folder = tmp_path / name
    (folder / "content").mkdir(parents=True)
    return stage.run(config, inputs, folder)
