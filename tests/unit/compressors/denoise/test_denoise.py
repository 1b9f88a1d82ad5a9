"""The denoiser and its published adapters: sampler and targets by their formulas, adapters that begin as nothing."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.denoise.adapters import DenoiserAdapters
from attar.compressors.denoise.diffusion import Diffusion
from attar.compressors.denoise.guidance import GuidedStates, rollout_states, sample, two_passes
from attar.compressors.denoise.train import error_ratio
from attar.compressors.denoise.transformer import ANY_CLASS, DiffusionTransformer
from attar.compressors.guidance.adapters import ScaleRange

RANGE = ScaleRange(low=1.0, high=6.0, is_base_at_one=False)


@pytest.fixture
def base() -> DiffusionTransformer:
    torch.manual_seed(0)
    model = DiffusionTransformer(width=16, num_blocks=2, num_heads=2)
    for parameter in model.parameters():  # away from the zeros it begins with
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def inputs(num_rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(num_rows, 64, generator=generator)
    return states, torch.arange(num_rows) * 9, torch.arange(num_rows) % 10, torch.linspace(1.0, 6.0, num_rows)


def test_patches_go_back_to_the_pixels_they_came_from() -> None:
    from attar.compressors.denoise.transformer import _to_patches, _to_pixels

    pixels = torch.arange(128.0).view(2, 64)
    patches = _to_patches(pixels)
    assert torch.equal(_to_pixels(patches), pixels)
    assert patches[0, 0].tolist() == [0.0, 1.0, 8.0, 9.0], "the upper left 2 x 2 corner"


def test_the_sampler_finds_the_image_when_the_noise_is_known() -> None:
    """With the true noise every step lands on the same trajectory, whatever the number of steps."""
    diffusion = Diffusion()
    image, noise = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    last = torch.full((3,), diffusion.num_timesteps - 1)
    assert float(diffusion.alpha_bar[-1]) < 1e-3, "the last timestep is noise"
    start = diffusion.noised(image, last, noise)
    for num_steps in (2, 25):
        sampled = sample(lambda *args: noise, diffusion, start, last, last, num_steps)
        torch.testing.assert_close(sampled, image, atol=2e-3, rtol=0)


def test_two_passes_are_the_formula_and_one_is_the_conditional_pass(base: DiffusionTransformer) -> None:
    states, timesteps, classes, scales = inputs()
    guided, conditional = two_passes(base, states, timesteps, classes, scales)
    unguided = base(states, timesteps, torch.full_like(classes, ANY_CLASS))
    torch.testing.assert_close(guided, unguided + scales[:, None] * (conditional - unguided))
    torch.testing.assert_close(guided[0], conditional[0], atol=1e-6, rtol=0)  # its scale is 1
    assert (guided[-1] - conditional[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["cross", "offset"])
def test_fresh_adapters_are_the_base_and_are_all_that_learns(base: DiffusionTransformer, kind) -> None:
    adapters = DenoiserAdapters(base, kind, 8, RANGE)
    states, timesteps, classes, scales = inputs()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    plain = base(states, timesteps, classes)
    assert torch.equal(adapters(states, timesteps, classes, scales), plain)
    assert not any("base" in name for name in adapters.state_dict())
    optimizer = torch.optim.SGD(adapters.parameters(), lr=1.0)
    for _ in range(2):  # the first step moves what is zero, the second what is before it
        optimizer.zero_grad()
        adapters(states, timesteps, classes, scales).square().sum().backward()
        optimizer.step()
    moved = adapters(states, timesteps, classes, scales)
    assert not torch.equal(moved, plain)
    assert torch.equal(base(states, timesteps, classes), plain), "taken off again after each pass"
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    if kind == "cross":  # three tokens and a query a patch: what is added differs from patch to patch
        gradient = torch.autograd.functional.jacobian(lambda x: adapters(x, timesteps, classes, scales).sum(), states)
        assert gradient.abs().max() > 0


def test_scales_beyond_the_trained_ones_are_pulled_in(base: DiffusionTransformer) -> None:
    torch.manual_seed(2)
    adapters = DenoiserAdapters(base, "offset", 8, RANGE)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states, timesteps, classes, _ = inputs()
    at = [adapters(states, timesteps, classes, torch.full((6,), scale)) for scale in (5.0, 6.0, 8.0)]
    assert torch.equal(at[1], at[2]) and not torch.equal(at[0], at[1])


def test_rollouts_follow_the_guided_sampler(base: DiffusionTransformer) -> None:
    diffusion, classes, scales = Diffusion(), torch.tensor([3, 4]), torch.tensor([1.0, 4.0])
    states = rollout_states(base, diffusion, classes, scales, 5, torch.Generator().manual_seed(3))
    assert len(states) == 10 and states.timesteps[::2].tolist() == diffusion.sampling_times(5)
    ends: list[torch.Tensor] = []

    def guided(*args: torch.Tensor) -> torch.Tensor:
        ends.append(args[0])
        return two_passes(base, *args)[0]

    sample(guided, diffusion, states.states[:2], classes, scales, 5)
    torch.testing.assert_close(torch.cat(ends), states.states)


def test_the_error_ratio_is_one_without_guidance_and_zero_with_it(base: DiffusionTransformer) -> None:
    states, timesteps, classes, scales = inputs()
    guided, conditional = two_passes(base, states, timesteps, classes, scales)
    fresh = DenoiserAdapters(base, "cross", 8, RANGE)
    assert error_ratio(fresh, GuidedStates(states, timesteps, classes, scales, guided, conditional)) == pytest.approx(1)
    halfway = GuidedStates(states, timesteps, classes, scales, conditional + 1e-9, conditional + 1.0)
    assert error_ratio(fresh, halfway) < 1e-6
