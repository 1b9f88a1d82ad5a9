"""The denoiser's study at a size that takes seconds: guided states are learned from, an interrupted run goes on, gates refuse."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from registry.artifact import ComparisonArtifact
from registry.store import Store
from stages.contract import NoInputs
from stages.denoise import DenoiseConfig, denoise
from stages.denoise_study import RESULT
from stages.progress import listen

SMALL = DenoiseConfig(
    seeds=[0],
    num_denoiser_steps=250,
    num_adapter_steps=250,
    batch_size=64,
    num_rollouts=150,
    num_states=2000,
    num_heldout_rollouts=40,
    num_sampler_steps=10,
    max_error_ratio=0.95,
    max_data_ratio=1.2,
)


@pytest.fixture(scope="module")
def studied(shared_store: Store) -> ComparisonArtifact:
    return denoise.execute(SMALL, NoInputs(), shared_store).artifact


def test_adapters_learn_what_two_passes_say_with_one(studied: ComparisonArtifact) -> None:
    found = json.loads((studied.path / "comparison.json").read_text())["seeds"]["seed 0"]
    assert found["error_ratio"] < 0.95 and found["sample_ratio"] < 0.95
    assert found["num_calls_a_sample"] == SMALL.num_sampler_steps, "one pass a step, not two"
    weights = load_file(studied.path / "seed-0-adapters-guided.safetensors")
    assert all(name.startswith("blocks.") for name in weights), "the base is no part of the adapters"


def test_an_interrupted_study_ends_as_an_undisturbed_one(store: Store, studied: ComparisonArtifact) -> None:
    """Stopped in the second of three trainings: the first is kept, the second begun again, every byte comes out the same."""

    class StopError(Exception):
        pass

    def stop(event: object) -> None:
        if "adapters on noised" in str(event):
            raise StopError

    with pytest.raises(StopError), listen(stop):
        denoise.execute(SMALL, NoInputs(), store)
    labels: list[str] = []
    with listen(lambda event: labels.append(str(event))):
        again = denoise.execute(SMALL, NoInputs(), store).artifact
    assert not any("label='denoiser" in label or "adapters on guided" in label for label in labels)
    assert (again.path / RESULT.replace("result", "comparison")).read_text() == (
        studied.path / "comparison.json"
    ).read_text()
    assert again.fingerprint == studied.fingerprint


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
        DenoiseConfig(min_scale=2.0, max_scale=2.0)
