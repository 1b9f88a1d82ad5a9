"""Merging: one adapter folded, two students interpolated, and adapters of another base refused."""

from __future__ import annotations

import json

import pytest
import torch

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from tests.stages.merge.students import two_students

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def students(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> tuple[AdapterArtifact, AdapterArtifact]:
    return two_students(shared_store, model, questions, num_epochs=2)


def logits(artifact: ModelArtifact) -> torch.Tensor:
    with torch.no_grad():
        return load_model(artifact.path, "float32")(input_ids=IDS).logits


def test_fold_gives_a_plain_model_that_differs_from_its_base(
    store: Store, model: ModelArtifact, students: tuple
) -> None:
    merged = merge.execute(MergeConfig(), MergeInputs(base=model, students=students[:1]), store).artifact
    assert {path.name for path in merged.path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (logits(merged) - logits(model)).abs().max() > 0.01
    metrics = [json.loads(line) for line in (merged.path / "records" / "metrics.jsonl").read_text().splitlines()]
    values = {entry["name"]: entry["value"] for entry in metrics}
    assert values["fold_max_logit_error"] < 1e-3 < values["fold_max_logit_change"]


def test_slerp_of_two_adapters_lies_between_the_students(store: Store, model: ModelArtifact, students: tuple) -> None:
    def merged(**params: object) -> torch.Tensor:
        config = MergeConfig(method="slerp", params=params)
        return logits(merge.execute(config, MergeInputs(base=model, students=students), store).artifact)

    folds = [
        merge.execute(MergeConfig(), MergeInputs(base=model, students=(student,)), store).artifact
        for student in students
    ]
    torch.testing.assert_close(merged(t=0.0), logits(folds[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(merged(t=1.0), logits(folds[1]), atol=1e-4, rtol=0)
    middle = merged(t=0.5, on="deltas")
    assert all((middle - logits(fold)).abs().max() > 1e-3 for fold in folds)
    whole_models = merge.execute(
        MergeConfig(method="slerp", params={"t": 0.5, "on": "deltas"}),
        MergeInputs(base=model, students=tuple(folds)),
        store,
    ).artifact
    torch.testing.assert_close(logits(whole_models), middle, atol=1e-4, rtol=0)


def test_an_adapter_of_another_base_is_refused(store: Store, students: tuple) -> None:
    other = ingest_model.execute(IngestModelConfig(source="random:llama?seed=9"), NoInputs(), store).artifact
    with pytest.raises(ValueError, match="the adapter was trained on model"):
        merge.execute(MergeConfig(), MergeInputs(base=other, students=students[:1]), store)
