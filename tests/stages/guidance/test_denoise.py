"""The denoiser's study at a size that takes seconds: guided states are learned from, an interrupted run goes on, gates refuse."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from attar.registry.artifacts.handles import ComparisonArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.guidance.denoise import RESULT, DenoiseConfig, denoise
from attar.stages.runtime.progress import listen

SMALL = DenoiseConfig(
    seeds=[0],
    training={"num_denoiser_steps": 150, "num_adapter_steps": 150, "batch_size": 48},
    states={"num_rollouts": 100, "num_states": 1000, "num_heldout_rollouts": 40, "num_sampler_steps": 10},
    max_error_ratio=0.9,
    max_data_ratio=1.5,  # a few steps on little data: which states are better shows at full size
)
TINY = SMALL.with_changes(
    training={"num_denoiser_steps": 6, "num_adapter_steps": 6, "batch_size": 16},
    states={"num_rollouts": 10, "num_heldout_rollouts": 10},
    max_error_ratio=9.0,
    max_data_ratio=9.0,
)


@pytest.fixture(scope="module")
def studied(shared_store: Store) -> ComparisonArtifact:
    return denoise.execute(SMALL, NoInputs(), shared_store).artifact


def test_adapters_learn_what_two_passes_say_with_one(studied: ComparisonArtifact) -> None:
    study = json.loads((studied.path / RESULT).read_text())["seeds"]["seed 0"]
    assert study["error_ratio"] < 0.9 and study["error_ratio_unseen"] < 0.9
    assert study["num_calls_a_sample"] == SMALL.states.num_sampler_steps, "one pass a step, not two"
    weights = load_file(studied.path / "seed-0-adapters-guided.safetensors")
    assert all(name.startswith("blocks.") for name in weights), "the base is no part of the adapters"


def test_an_interrupted_study_ends_as_an_undisturbed_one(store: Store) -> None:
    """Stopped in the third of three trainings: the others are kept, the third is begun again, every byte comes out the same."""
    whole = denoise.execute(TINY, NoInputs(), Store(store.root / "undisturbed")).artifact

    class StopError(Exception):
        pass

    def stop(event: object) -> None:
        if "adapters on noised" in str(event):
            raise StopError

    with pytest.raises(StopError), listen(stop):
        denoise.execute(TINY, NoInputs(), store)
    labels: list[str] = []
    with listen(lambda event: labels.append(str(event))):
        again = denoise.execute(TINY, NoInputs(), store).artifact
    assert not any("label='denoiser" in label or "adapters on guided" in label for label in labels)
    assert (again.path / RESULT).read_text() == (whole.path / RESULT).read_text()
    assert again.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_error_ratio": 1e-3}, "seed 0: error ratio .* accepted: at most 0.001"),
        ({"max_data_ratio": 1e-3}, "seed 0: states of guided rollouts give .* accepted: at most 0.001"),
    ],
)
def test_gates_refuse(store: Store, changes: dict[str, float], message: str) -> None:
    quick = {
        "num_denoiser_steps": 5,
        "num_adapter_steps": 5,
        "num_rollouts": 10,
        "max_error_ratio": 9,
        "max_data_ratio": 9,
    }
    config = DenoiseConfig(**{**SMALL.model_dump(), **quick, **changes})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        denoise.execute(config, NoInputs(), store)
    assert not list(store.artifacts())


def test_a_range_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="min_scale 2 is not below max_scale 2"):
        DenoiseConfig(adapter={"min_scale": 2.0, "max_scale": 2.0})
