"""The control: a teacher of random weights, drawn anew for the shape of the teacher or of the student."""

from __future__ import annotations

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.random_weights import draw_weights
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.finetune.test_distil import train

FLOAT, CPU = torch.float32, torch.device("cpu")


def test_weights_are_the_seeds_and_the_callers_random_numbers_stay(model: ModelArtifact) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (draw_weights(model.path, FLOAT, CPU, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    trained = load_model(model.path, FLOAT).state_dict()
    assert first.keys() == trained.keys()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], trained[name])


@pytest.mark.parametrize("has_input", [False, True], ids=["of the student's shape", "of the teacher's"])
def test_a_student_learns_what_it_does_not_know(
    store: Store, shared_store: Store, model: ModelArtifact, questions: DatasetArtifact, has_input: bool
) -> None:
    """Random weights of another seed: their distribution is learned, so it is they that taught, and no input's own."""
    inputs = {}
    if has_input:
        config = IngestModelConfig(source="random:llama?num_blocks=2&hidden_size=64&seed=1")
        inputs = {"teacher": ingest_model.execute(config, NoInputs(), shared_store).artifact}
    losses = {}
    for seed in (7, 8):
        config = {"objectives": {"forward_kl": 1.0}, "teacher": {"kind": "random", "seed": seed}}
        _, curves = train(store, model, questions, config, **inputs)
        losses[seed] = curves["heldout_forward_kl_nats"]
        assert min(losses[seed]) < 0.9 * losses[seed][0]
    assert losses[7][0] != losses[8][0]
