"""What the tests of self data and recorded teacher share."""

from __future__ import annotations

import shutil
from pathlib import Path

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data

CONFIG = SelfDataConfig(
    drawing={"max_new_tokens": 12}, batch_size=2, rows_per_shard=4, recorded={"num_candidates": 16}, precision="float32"
)


def rewrite(store: Store, config: SelfDataConfig, model: ModelArtifact, data: DatasetArtifact) -> DatasetArtifact:
    return self_data.execute(config, SelfDataInputs(model=model, data=data), store).artifact


def all_verified_by_nothing(source: DatasetArtifact, folder: Path) -> DatasetArtifact:
    """The same questions without a checkable answer, so that what the random model writes is kept."""
    from attar.stages.artifacts.dataset.rows import write_rows

    target = folder / source.path.parents[1].name / source.path.parents[0].name  # a manifest says where it belongs
    shutil.copytree(source.path.parent, target)
    rows = [row.with_changes(verifier="none") for row in read_rows(source.path / "rows.jsonl")]
    write_rows(target / "content" / "rows.jsonl", rows)
    return DatasetArtifact(target / "content", source.facts, source.key, source.fingerprint + "-open")
