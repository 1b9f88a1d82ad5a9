"""A self-conditioned denoiser through the stages: added, taught, folded, read again, exported; and what its features tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.self_conditioning import PATH
from attar.registry.artifacts.handles import DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.stage import sample
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.artifacts.denoiser.conftest import DATA, MODEL, SOURCE, denoiser_of, trained

WEIGHTS = "diffusion_pytorch_model.safetensors"
DENOISING = {"denoising": {"divergence": {"denoising": {"drop_fraction": 0.5}}}}
FEW: dict[str, Any] = {"num_steps": 1, "num_images": 30, "classifier": {"num_steps": 5, "num_draws": 2}}


def conditioned(store: Store, source: str = SOURCE) -> DenoiserArtifact:
    model = {"kind": "denoiser", "self_conditioning": True}
    return ingest_model.execute(IngestModelConfig(source=source, model=model), NoInputs(), store).artifact  # type: ignore[return-value]


def predicted(folder: Path) -> torch.Tensor:
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return predictor(load_denoiser(folder).net)(noise, torch.tensor([900, 100]), torch.tensor([0, 1]))


def test_a_self_conditioned_denoiser_is_taught_folded_and_read_again(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    model = conditioned(store)
    assert model.facts.self_conditioning and not denoiser.facts.self_conditioning
    assert model.facts.num_parameters == denoiser.facts.num_parameters + (16 + 1) * 32, "a matrix and what it adds"
    assert torch.equal(predicted(model.path), predicted(denoiser.path)), "zero at the start"
    student = trained(store, model, images, objectives=DENOISING)
    path = load_denoiser(student.path).net.get_submodule(PATH)
    assert bool(path.projection.weight.any()) and student.facts.self_conditioning  # type: ignore[union-attr]
    again = denoiser_of(store, f"folder:{student.path}")
    assert again.facts.self_conditioning and torch.equal(predicted(again.path), predicted(student.path))


def test_diffusers_reads_the_folder_without_the_path(store: Store) -> None:
    from diffusers import UNet2DModel

    model = conditioned(store)
    net = UNet2DModel.from_pretrained(model.path / "unet", local_files_only=True)
    assert not any(name.startswith(PATH) for name in net.state_dict())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda stored: stored.pop(f"{PATH}.projection.bias"), "Missing key"),
        (lambda stored: stored.update({f"{PATH}.other": torch.zeros(1)}), "Unexpected key"),
        (lambda stored: stored[f"{PATH}.projection.weight"].fill_(torch.nan), "not finite|NaN"),
    ],
)
def test_a_path_that_is_not_whole_is_refused(store: Store, tmp_path: Path, change: Any, line: str) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(conditioned(store).path, folder)
    stored = load_file(folder / "unet" / WEIGHTS)
    change(stored)
    save_file(stored, folder / "unet" / WEIGHTS)
    with pytest.raises(ValueError, match=line) as refused:
        load_denoiser(folder)
    assert "\n" not in str(refused.value)


def test_a_transformer_needs_a_block_behind(store: Store) -> None:
    source = "random:dit?sample_size=8&num_classes=3&width=16"
    with pytest.raises(ValueError, match="num_blocks is 1, and model.self_conditioning .* accepted: 2 or more"):
        conditioned(store, source)
    model = conditioned(store, f"{source}&num_blocks=2")
    assert torch.equal(predicted(model.path), predicted(denoiser_of(store, f"{source}&num_blocks=2").path))


def test_features_are_probed_and_tell_the_shades(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    config = SampleConfig(**FEW, probe={"time_fraction": 0.05, "num_neighbours": 5})
    evaluation = sample.execute(config, SampleInputs(model=denoiser, data=images), store).artifact
    measured = json.loads((evaluation.path / "evaluation.json").read_text())["probe"]
    right = measured["right"]
    assert measured["width"] == 16 and measured["time_fraction"] == 0.05
    for name in ("knn_accuracy", "linear_probe_accuracy"):
        share = sum(right[name]) / len(right[name])
        assert evaluation.facts[name] == pytest.approx(share) and share > 0.6, "three shades, little noise"
        assert evaluation.facts[f"{name}_low"] < share <= evaluation.facts[f"{name}_high"]


@pytest.mark.parametrize(
    ("model", "others", "line"),
    [
        ({**MODEL, "num_steps": 1}, (), "probe: the model is a graph, which gives its images alone; accepted: a single denoiser"),
        (MODEL, (MODEL,), "probe: the model is several students"),
        ({**MODEL, "num_labels": 3}, (), "the model has no class beside the data's that means any"),
    ],
)  # fmt: skip
def test_a_probe_of_what_has_no_features_is_refused(model: dict[str, Any], others: tuple[Any, ...], line: str) -> None:
    routes = [[0, 1], [2]] if others else []
    with pytest.raises(ValueError) as refused:
        sample.forecast(
            SampleConfig(**FEW, probe={}, routes=routes), {"model": (model,), "data": (DATA,), "others": others}
        )
    assert line in str(refused.value)


@pytest.mark.slow
def test_the_path_is_in_the_graph_of_the_sampler(store: Store, images: ImageDatasetArtifact) -> None:
    model = trained(store, conditioned(store), images, objectives=DENOISING)
    config = ExportConfig(format={"kind": "onnx", "num_steps": 2})
    graph = export.execute(config, ExportInputs(model=model, data=images), store).artifact
    assert graph.facts.max_pixel_difference < 1e-4
