"""A denoiser is gated by its images, registered with its sampler's graph, and pulled as the folder that a pipeline of diffusers runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.sampler import sampled
from attar.registry.artifacts.handles import DenoiserArtifact, EvaluationArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Slot, Store
from attar.registry.release.pull import download_model
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.stage import sample
from attar.stages.register.config import RegisterConfig, RegisterInputs
from attar.stages.register.stage import register
from tests.databases import copy_database
from tests.stages.artifacts.denoiser.conftest import denoiser_of, trained

FEW: dict[str, Any] = {"num_images": 30, "classifier": {"num_steps": 10, "num_draws": 5}}


@pytest.fixture
def store(store: Store, mlflow_database: Path) -> Store:
    store.root.mkdir(parents=True, exist_ok=True)
    copy_database(mlflow_database, store.root / "mlflow.db")
    return store


def drawn(store: Store, model: DenoiserArtifact, data: ImageDatasetArtifact, num_steps: int, **config: Any):
    given = SampleConfig(**{**FEW, "num_steps": num_steps, **config})
    return sample.execute(given, SampleInputs(model=model, data=data), store).artifact


def shifted(store: Store, evaluation: EvaluationArtifact, factor: float) -> EvaluationArtifact:
    """Return an evaluation whose distances, draws too, are so many times what was measured, a little uneven."""

    def build(workdir: Path) -> EvaluationArtifact:
        content = json.loads((evaluation.path / "evaluation.json").read_text())
        for seed in content["seeds"].values():
            for figures in (seed, seed["draws"]):
                figures["frechet_distance"] = _times(figures["frechet_distance"], factor)
        (workdir / "content" / "evaluation.json").write_text(json.dumps(content))
        facts = evaluation.facts
        figures = {**facts, "frechet_distance": factor * float(facts["frechet_distance"])}
        return EvaluationArtifact.at(workdir / "content", figures)

    slot = Slot(stage="sample", version=2, config={"factor": factor}, inputs={})
    return store.get_or_build(slot, EvaluationArtifact, f"{evaluation.key}-{factor}", build).artifact


def _times(value: Any, factor: float) -> Any:
    return [factor * each for each in value] if isinstance(value, list) else factor * value


def test_a_version_holds_what_diffusers_and_onnxruntime_run(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact, tmp_path: Path
) -> None:
    from diffusers import ConsistencyModelPipeline

    student = trained(store, denoiser, images, objectives={"denoising": 1.0})
    baseline = drawn(store, denoiser, images, 4)
    scores = shifted(store, drawn(store, student, images, 1), 1.0)
    inputs = RegisterInputs(model=student, evaluation=scores, baseline=baseline)
    released = register.execute(RegisterConfig(name="shades", gate={"max_forwards_ratio": 0.25}), inputs, store)
    assert released.artifact.facts.is_champion
    folder = download_model("shades", tmp_path / "pulled")
    pipeline = ConsistencyModelPipeline.from_pretrained(folder / "model", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    piped = pipeline(
        batch_size=3, class_labels=[0, 1, 2], num_inference_steps=1, generator=torch.Generator().manual_seed(5), output_type="pt"
    ).images  # fmt: skip
    loaded = load_denoiser(student.path)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = sampled(predictor(loaded.net), loaded.process, noise, torch.arange(3), 1)
    torch.testing.assert_close((expected + 1) / 2, piped, atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "library_name: diffusers" in card and "diffusers folder: diffusers, torch" in card
    assert "frechet_distance" in card and "shades.npz" in card and "?" not in card.split("## Forms")[0]
    assert (folder / "requirements.txt").read_text().startswith("diffusers==")
    assert not (folder / "model" / "records").exists()
    again = denoiser_of(store, "models:/shades@champion", expect={"sample_size": 8})
    assert torch.equal(_weights(again), _weights(student))


def _weights(model: DenoiserArtifact) -> torch.Tensor:
    return torch.cat([value.flatten() for value in load_denoiser(model.path).net.state_dict().values()])


def test_the_gate_holds_images_to_the_originals(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    baseline, same = drawn(store, denoiser, images, 4), drawn(store, denoiser, images, 2)
    near = shifted(store, baseline, 1.1)

    def verdict(evaluation: EvaluationArtifact, gate: dict[str, Any]) -> tuple[bool, dict[str, str]]:
        inputs = RegisterInputs(model=denoiser, evaluation=evaluation, baseline=baseline)
        released = register.execute(RegisterConfig(name="shades", gate=gate), inputs, store).artifact
        checks = json.loads((released.path / "release.json").read_text())["checks"]
        return released.facts.is_champion, {check["name"]: check["verdict"] for check in checks}

    # a distance that is a multiple of the original's in every draw is known exactly
    assert verdict(near, {"max_frechet_ratio": 1.2, "max_size_ratio": 1.0})[0]
    passed, by_name = verdict(near, {"max_frechet_ratio": 1.05})
    assert not passed and by_name == {"frechet_distance_ratio": "failed"}
    checks = {"checks": [{"measure": "frechet_ratio", "limit": 1.2}]}
    assert verdict(near, checks) == (True, {"frechet_ratio": "passed"})
    checks = {"checks": [{"measure": "frechet_ratio", "limit": 1.05}, {"measure": "parameters_ratio", "limit": 1.0}]}
    assert verdict(near, checks) == (False, {"frechet_ratio": "failed", "parameters_ratio": "passed"})
    forwards = {"checks": [{"measure": "forwards_ratio", "limit": 0.5}]}
    assert verdict(same, forwards)[0] and not verdict(near, forwards)[0]


def test_images_that_were_drawn_otherwise_and_limits_of_other_models_are_refused(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    baseline, other = drawn(store, denoiser, images, 2), drawn(store, denoiser, images, 2, num_images=24)
    inputs = RegisterInputs(model=denoiser, evaluation=other, baseline=baseline)
    with pytest.raises(ValueError, match="drawn with another num_images, 24 and 30; accepted: the same"):
        register.execute(RegisterConfig(name="shades"), inputs, store)
    facts = {"model": (denoiser.facts,), "evaluation": ({},), "baseline": ({},)}
    with pytest.raises(ValueError, match="gate.max_perplexity_ratio is not measured of a denoiser; accepted: max_f"):
        register.forecast(RegisterConfig(name="shades", gate={"max_perplexity_ratio": 1.0}), facts)
    wrong = {"checks": [{"measure": "accuracy_drop", "limit": 0.1}]}
    with pytest.raises(ValueError, match="accuracy_drop is not measured of a denoiser; accepted: frechet_ratio"):
        register.forecast(RegisterConfig(name="shades", gate=wrong), facts)
    causal = {**facts, "model": ({"vocab_size": 9},)}
    with pytest.raises(ValueError, match="gate.max_frechet_ratio is not measured of a causal language model"):
        register.forecast(RegisterConfig(name="small", gate={"max_frechet_ratio": 1.0}), causal)
    frechet = {"checks": [{"measure": "frechet_ratio", "limit": 1.0}]}
    with pytest.raises(ValueError, match="frechet_ratio is not measured of a causal language model"):
        register.forecast(RegisterConfig(name="small", gate=frechet), causal)
