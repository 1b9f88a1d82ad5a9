"""Losses of one-step students through the stages: what learns by them, what stays, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from tests.stages.artifacts.denoiser.conftest import DATA, MODEL, TRAINING, trained

PAIR = {"adversarial": 1.0, "discriminator": 1.0}
FAMILY: dict[str, Any] = {
    "divergence": {
        "divergence": {"divergence_distillation": {"divergence": "chi_squared"}},
        "schedule": {"linear_ramp": {"parameter": "ratio_share", "end": 1.0, "by": "step"}},
    },
    "fake_score": 1.0,
    "discriminator": {"divergence": {"discriminator": {"is_noised": True, "gradient_penalty": 0.0}}},
}
# the paper's rule by diffusers' names
FROZEN = ["*.conv1.*", "*.conv2.*", "*samplers.*", "*.to_out.*"]


def test_frozen_tensors_are_bit_equal_and_the_others_are_not(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    adapt = {"kind": "full", "freeze": FROZEN}
    student = trained(store, denoiser, images, objectives=PAIR, adapt=adapt)
    before, after = (dict(load_denoiser(model.path).net.named_parameters()) for model in (denoiser, student))
    same = {name for name in before if torch.equal(before[name], after[name])}
    listed = {name for name in before if any(part in name for part in (".conv1.", ".conv2.", "samplers.", ".to_out."))}
    assert same == listed and 10 < len(listed) < len(before)


def test_a_discriminator_is_trained_beside_and_is_not_kept(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    """It needs no teacher; R1 takes a second derivative through the net's attention."""
    inputs = FinetuneInputs(model=denoiser, data=(images,))
    training = finetune.execute(FinetuneConfig(**TRAINING, objectives=PAIR), inputs, store).artifact
    weights = load_file(training.path / "weights.safetensors")
    own = {name for name in weights if not name.startswith("discriminator.")}
    assert own == {name for name, _ in load_denoiser(denoiser.path).net.named_parameters()}
    heads = weights.keys() - own
    assert heads and all(name.startswith("discriminator.heads.") for name in heads), "what it reads stays as it is"


def test_the_family_trains_three_nets_at_once(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    student = trained(store, denoiser, images, denoiser, objectives=FAMILY)
    assert {path.name for path in student.path.iterdir()} == {"model_index.json", "scheduler", "unet", "records"}


@pytest.mark.parametrize(
    ("objectives", "line"),
    [
        ({"adversarial": 1.0}, "adversarial and discriminator learn by each other; accepted: both, with the same is_noised"),
        ({"discriminator": 1.0}, "which draw no states; accepted: beside it what it follows"),
        ({"adversarial": 1.0, "discriminator": FAMILY["discriminator"]}, "accepted: both, adversarial with is_noised or divergence_distillation"),
        ({**FAMILY, "discriminator": 1.0}, "accepted: both, adversarial with is_noised or divergence_distillation"),
        ({name: FAMILY[name] for name in ("divergence", "discriminator")}, "score_distillation and fake_score learn by each other"),
        ({**PAIR, "denoising": 1.0}, "begin at other states"),
    ],
)  # fmt: skip
def test_a_loss_without_what_it_learns_by_is_refused(objectives: dict[str, Any], line: str) -> None:
    given = FinetuneConfig(**TRAINING, objectives=objectives)
    with pytest.raises(ValueError) as refused:
        finetune.forecast(given, {"model": (MODEL,), "data": (DATA,), "teacher": (MODEL,)})
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_freeze_mask_that_names_no_tensor_is_refused_before_the_first_step(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    adapt = {"kind": "full", "freeze": ["*.layers.*"]}
    with pytest.raises(ValueError, match=r"adapt.freeze has '\*.layers.\*', which names none of the .* tensors"):
        trained(store, denoiser, images, objectives={"denoising": 1.0}, adapt=adapt)
    with pytest.raises(ValueError, match="freeze"):
        FinetuneConfig(adapt={"kind": "lora", "freeze": ["*norm*"]})
