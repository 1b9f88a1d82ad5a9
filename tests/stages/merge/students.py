"""Two students of one base, trained alike from different seeds: what merges are tried on."""

from __future__ import annotations

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune


def two_students(
    store: Store, model: ModelArtifact, data: DatasetArtifact, num_epochs: int
) -> tuple[AdapterArtifact, AdapterArtifact]:
    """Return the adapters of seeds 0 and 1."""

    def train(seed: int) -> AdapterArtifact:
        config = FinetuneConfig(
            adapt={"rank": 4},
            schedule={"num_epochs": num_epochs, "learning_rate": 5e-3, "tokens_per_step": 512, "seed": seed},
            compute={"precision": "float32"},
        )
        return finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact

    return train(0), train(1)
