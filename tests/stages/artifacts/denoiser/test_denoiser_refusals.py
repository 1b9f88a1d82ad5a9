"""What no denoiser comes from, learns from or is asked for: one line each, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.handles import DenoiserArtifact
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.compare.sample.config import SampleConfig
from attar.stages.compare.sample.stage import sample
from attar.stages.export.config import ExportConfig
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig
from tests.stages.artifacts.denoiser.conftest import DATA, MODEL, TRAINING

DENOISING = {"objectives": {"denoising": 1.0}}


def changed(source: Path, target: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(source, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


@pytest.mark.parametrize(
    ("file", "changes", "line"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type is 'flow'; accepted: epsilon, v_prediction, sample"),
        ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}, "the scheduler is EulerDiscreteScheduler; accepted: DDIM"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "'epsilon' with rescale_betas_zero_snr, but pure noise says nothing"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "linspace"}, "timestep_spacing is 'linspace' and steps_offset 0; accepted: trailing"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000; accepted: 1 to 10,000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "num_train_timesteps is many; accepted: 1 to 10,000"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear", "beta_start": "x"}, "scheduler: diffusers does not take it"),
        ("scheduler/scheduler_config.json", {"trained_betas": [2.0] * 4, "rescale_betas_zero_snr": False}, "leave no share of the image"),
        ("scheduler/scheduler_config.json", {"clip_sample": True, "clip_sample_range": "x"}, "accepted: numbers that DDIM computes with"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "beta_schedule": "linear", "trained_betas": [0.5, 1.0]},
            "the last state is pure noise, which says nothing of an image",
        ),
        ("unet/config.json", {"in_channels": 4, "out_channels": 4}, "in_channels 4; accepted: 1 or 3, of images in grey or colour"),
        ("unet/config.json", {"layers_per_block": 10**6}, "says layers_per_block 1e+06; accepted: 1,000 blocks at most"),
        ("unet/config.json", {"block_out_channels": [8, "x"]}, "block_out_channels [8, 'x'], layers_per_block"),
        ("unet/config.json", {"num_class_embeds": True}, "num_class_embeds True, so that the net is told no class"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "names a vae beside unet and scheduler; accepted: a denoiser of pixels"),
        ("unet/config.json", {"sample_size": 9}, "sample_size is 9, which halving it at each level, by 2 does not divide; accepted: a multiple of 2"),
        ("unet/config.json", {"num_class_embeds": None}, "num_class_embeds None, so that the net is told no class"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel; accepted: UNet2DModel there"),
        ("unet/config.json", {"out_channels": 2}, "in_channels 1 and out_channels 2; accepted: as many"),
        ("unet/config.json", {"block_out_channels": [8, 24]}, "diffusers cannot load it"),
        ("model_index.json", {"_class_name": ["pipeline", "Own"]}, "names a pipeline of its own code"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_such_denoiser_is_refused(
    denoiser: DenoiserArtifact, tmp_path: Path, file: str, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError) as refused:
        load_denoiser(changed(denoiser.path, tmp_path / "copy", file, **changes))
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("random:llama", "but model.kind is 'denoiser'; accepted: folder:PATH, models:/NAME@ALIAS, random:unet"),
        ("random:unet?sample_size=15", "sample_size is 15"),
        ("random:dit?sample_size=9", "sample_size is 9, which patch_size 2 does not divide; accepted: a multiple of 2"),
        ("random:unet?layers=3", "option 'layers' is unknown; accepted: sample_size, num_channels"),
        ("random:unet?width=12", "width is 12; accepted: a multiple of 8"),
        ("models:/net@champion", "expect.sample_size is not given"),
    ],
)
def test_a_source_that_no_denoiser_comes_from_is_refused(source: str, line: str) -> None:
    with pytest.raises(ValueError) as refused:
        IngestModelConfig(source=source, model={"kind": "denoiser"})
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("config", "data", "teacher", "line"),
    [
        (DENOISING, {"num_classes": 1}, (), "input data shades has a single class; accepted: two or more"),
        (DENOISING, {"num_classes": 9}, (), "input data shades has labels to 8, but the model is told 4 classes; accepted: 0 to 3"),
        (DENOISING, {"num_channels": 3}, (), "has colour images, the model makes grey ones; accepted: images of 1 channels"),
        (DENOISING, {"image_size": (12, 12)}, (), "has images of 12 x 12, which are no multiple of the model's 8 x 8"),
        ({"objectives": {"next_token": 1.0}}, {}, (), "objectives.next_token reads distributions, and the model is a denoiser"),
        ({"objectives": {"score_distillation": 1.0, "fake_score": 1.0}}, {}, (), "reads the teacher, but the node has no input `teacher`"),
        ({"objectives": {"fake_score": 1.0}}, {}, (), "which draw no states; accepted: beside it what it follows, such as score_distillation"),
        ({"objectives": {"score_distillation": 1.0}}, {}, (MODEL,), "learn by each other; accepted: both"),
        ({"objectives": {"score_distillation": 1.0, "fake_score": 1.0, "denoising": 1.0}}, {}, (MODEL,), "begin at other states"),
        (DENOISING, {}, ({**MODEL, "prediction": "epsilon"},), "the teacher's prediction is epsilon, the model's v_prediction"),
        ({**DENOISING, "adapt": {"kind": "lora"}}, {}, (), "adapt.kind is 'lora', but the model is a denoiser"),
        ({**DENOISING, "heldout": {"stop_on": "quality"}}, {}, (), "which checks written answers; accepted for a denoiser: loss"),
        (
            {"objectives": {"d": {"divergence": {"denoising": {"drop_fraction": 0.1}}}}}, {"num_classes": 4}, (),
            "drop_fraction is 0.1, but the model has no class beside the data's that means any",
        ),
    ],
)  # fmt: skip
def test_a_training_that_no_denoiser_has_is_refused(
    config: dict[str, Any], data: dict[str, Any], teacher: tuple[dict[str, Any], ...], line: str
) -> None:
    given = FinetuneConfig(**{**TRAINING, **config})
    with pytest.raises(ValueError) as refused:
        finetune.forecast(given, {"model": (MODEL,), "data": ({**DATA, **data},), "teacher": teacher})
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_of_text_takes_neither_a_denoiser_s_loss_nor_images() -> None:
    with pytest.raises(ValueError, match="reads what a denoiser predicts, and the model is a causal language model"):
        finetune.forecast(FinetuneConfig(**DENOISING), {"model": ({"vocab_size": 9},), "data": ({},)})
    with pytest.raises(ValueError, match="input data is of images, but the model is a causal language model"):
        finetune.forecast(FinetuneConfig(), {"model": ({"vocab_size": 9},), "data": (DATA,)})


@pytest.mark.parametrize(
    ("config", "model", "line"),
    [
        ({"num_steps": 7}, {}, "num_steps is 7, which does not divide the 1000 timesteps"),
        ({"num_steps": 25}, {"num_steps": 1}, "but 1 steps without guidance are in the graph; accepted: those"),
        (
            {"guidance_scale": 2.0},
            {"num_labels": 3},
            "guidance_scale is 2, but the model has no class beside the data's",
        ),
    ],
)
def test_a_drawing_that_the_model_cannot_give_is_refused(
    config: dict[str, Any], model: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        sample.forecast(SampleConfig(**config), {"model": ({**MODEL, **model},), "data": (DATA,)})


def test_an_export_that_no_denoiser_has_is_refused() -> None:
    with pytest.raises(ValueError, match="format.kind is 'gguf', but the model is a denoiser; accepted: 'onnx'"):
        export.forecast(ExportConfig(format={"kind": "gguf"}), {"model": (MODEL,), "data": (DATA,)})
    with pytest.raises(ValueError, match="format.num_steps is 3, which does not divide the 1000 timesteps"):
        export.forecast(ExportConfig(format={"num_steps": 3}), {"model": (MODEL,), "data": (DATA,)})
