"""A denoiser through the stages: made, taught from data, taught to need fewer steps, folded, drawn from, exported."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.sampler import sampled
from attar.registry.artifacts.handles import DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.denoiser.folder import folder_facts, load_denoiser
from attar.stages.artifacts.denoiser.images import read_images
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.stage import sample
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_run import TrainingRun
from tests.stages.artifacts.denoiser.conftest import TRAINING, denoiser_of, trained

SEGMENTS = {
    "divergence": {"segment_consistency": {"num_segments": 8}},
    "schedule": {"staircase": {"parameter": "num_segments", "values": [8, 4, 2, 1]}},
}
FEW: dict[str, Any] = {"num_steps": 2, "num_images": 30, "classifier": {"num_steps": 20, "num_draws": 3}}


def test_a_denoiser_s_folder_tells_its_facts_and_runs_in_diffusers(store: Store, denoiser: DenoiserArtifact) -> None:
    from diffusers import ConsistencyModelPipeline

    facts = denoiser.facts
    assert (facts.sample_size, facts.num_labels, facts.prediction) == (8, 4, "v_prediction")
    assert (facts.architecture, facts.num_timesteps, facts.num_image_channels) == ("unet", 1000, 1)
    assert (
        folder_facts(denoiser.path).items()
        >= {name: facts[name] for name in ("num_parameters", "num_products")}.items()
    )
    loaded = load_denoiser(denoiser.path)
    pipeline = ConsistencyModelPipeline.from_pretrained(denoiser.path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for num_steps in (1, 4):
        generator = torch.Generator().manual_seed(5)
        piped = pipeline(
            batch_size=3, class_labels=[0, 1, 2], num_inference_steps=num_steps, generator=generator, output_type="pt"
        ).images
        noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
        drawn = sampled(predictor(loaded.net), loaded.process, noise, torch.arange(3), num_steps)
        torch.testing.assert_close((drawn + 1) / 2, piped, atol=1e-5, rtol=0)


def test_a_transformer_is_taken_too(store: Store, images: ImageDatasetArtifact) -> None:
    model = denoiser_of(store, "random:dit?sample_size=8&num_classes=3&width=16&num_blocks=2")
    assert (model.facts.architecture, model.facts.num_labels) == ("dit", 4)
    index = json.loads((model.path / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    student = trained(store, model, images, objectives={"denoising": 1.0})
    assert not torch.equal(_predicted(student), _predicted(model))


def _predicted(model: DenoiserArtifact) -> torch.Tensor:
    loaded = load_denoiser(model.path)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return predictor(loaded.net)(noise, torch.tensor([900, 100]), torch.tensor([0, 1]))


def test_a_denoiser_learns_from_images(store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact) -> None:
    config = FinetuneConfig(
        **{**TRAINING, "schedule": {**TRAINING["schedule"], "max_steps": 40}},
        objectives={"denoising": {"divergence": {"denoising": {"drop_fraction": 0.1}}}},
    )
    student = finetune.execute(config, FinetuneInputs(model=denoiser, data=(images,)), store).artifact
    lines = (student.path / "records" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["value"] for entry in map(json.loads, lines) if entry["name"] == "heldout_denoising_nats"]
    assert losses[-1] < 0.7 * losses[0], losses


@pytest.mark.parametrize(
    "config",
    [
        {"objectives": {"segments": SEGMENTS}, "past": {"kind": "live"}},
        {
            "objectives": {"score_distillation": 1.0, "fake_score": 1.0},
            "schedule": {**TRAINING["schedule"], "average_decay": 0.5},
        },
    ],
    ids=["segments", "scores"],
)
def test_a_student_learns_to_need_fewer_steps(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact, config: dict[str, Any]
) -> None:
    student = trained(store, denoiser, images, denoiser, **config)
    assert not torch.equal(_predicted(student), _predicted(denoiser))
    assert {path.name for path in student.path.iterdir()} == {"model_index.json", "scheduler", "unet", "records"}


def test_a_killed_training_goes_on_to_the_same_weights(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig(
        **TRAINING, objectives={"score_distillation": 1.0, "fake_score": 1.0}, checkpoints={"every": 2}
    )
    inputs = FinetuneInputs(model=denoiser, data=(images,), teacher=denoiser)
    whole = finetune.execute(config, inputs, store).artifact
    expected = (whole.path / "weights.safetensors").read_bytes()
    report = TrainingRun._report

    def killed(run: TrainingRun, record: Any) -> None:
        if record.step == 3:
            raise KeyboardInterrupt
        report(run, record)

    monkeypatch.setattr(TrainingRun, "_report", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune.execute(config, inputs, store, is_forced=True)
    monkeypatch.setattr(TrainingRun, "_report", report)
    again = finetune.execute(config, inputs, store, is_forced=True).artifact
    assert (again.path / "weights.safetensors").read_bytes() == expected


def test_images_are_drawn_and_measured(store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact) -> None:
    from PIL import Image

    evaluation = sample.execute(
        SampleConfig(**FEW, seeds=[0, 1]), SampleInputs(model=denoiser, data=images), store
    ).artifact
    measured = json.loads((evaluation.path / "evaluation.json").read_text())
    assert (measured["num_steps"], measured["num_forwards"]) == (2, 2)
    assert (
        evaluation.facts["frechet_distance_low"]
        < evaluation.facts["frechet_distance"]
        < evaluation.facts["frechet_distance_high"]
    )
    assert measured["floor"] < evaluation.facts["frechet_distance"], "an untrained net is no better than real images"
    assert Image.open(evaluation.path / "grid.png").size[0] > 200
    guided = sample.execute(
        SampleConfig(**FEW, guidance_scale=2.0), SampleInputs(model=denoiser, data=images), store
    ).artifact
    assert guided.facts["num_forwards"] == 4


def test_images_of_a_larger_size_are_averaged_down(store: Store, images: ImageDatasetArtifact) -> None:
    whole, half = (read_images(images, "train", 1, side) for side in (8, 4))
    torch.testing.assert_close(half.images, torch.nn.functional.avg_pool2d(whole.images, 2))
    assert float(whole.images.min()) >= -1.0 and float(whole.images.max()) <= 1.0


@pytest.mark.slow
def test_a_whole_sampler_is_one_graph(store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact) -> None:
    config = ExportConfig(format={"kind": "onnx", "num_steps": 2})
    graph = export.execute(config, ExportInputs(model=denoiser, data=images), store).artifact
    assert graph.facts.max_pixel_difference < 1e-4 and graph.facts.num_steps == 2
    inputs = (SampleInputs(model=model, data=images) for model in (denoiser, graph))
    torch_drawn, drawn = (sample.execute(SampleConfig(**FEW), some, store).artifact for some in inputs)
    assert drawn.facts["num_forwards"] == 2
    assert drawn.facts["frechet_distance"] == pytest.approx(torch_drawn.facts["frechet_distance"], rel=1e-3)
