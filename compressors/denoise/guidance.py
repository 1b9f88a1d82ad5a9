"""The teacher of a denoiser's adapters: two passes a step, and the states that they visit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.denoise.diffusion import Diffusion
from attar.compressors.denoise.transformer import ANY_CLASS, DiffusionTransformer

# (states, timesteps, classes, scales) to the noise
NoiseModel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GuidedStates:
    """States with their conditions, what two passes say there, and what the conditional pass alone says."""

    states: Float[Tensor, "N P"]
    timesteps: Int[Tensor, "N"]
    classes: Int[Tensor, "N"]
    scales: Float[Tensor, "N"]
    guided: Float[Tensor, "N P"]
    conditional: Float[Tensor, "N P"]

    def __len__(self) -> int:
        return len(self.states)

    def chosen(self, index: Tensor) -> GuidedStates:
        """Return some of them: by place, or by a mask."""
        return GuidedStates(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def two_passes(
    model: DiffusionTransformer, states: Tensor, timesteps: Tensor, classes: Tensor, scales: Tensor
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
    """Return (eps_u + w (eps_c - eps_u), eps_c): w = 1 is no guidance. https://arxiv.org/abs/2207.12598"""
    conditional = model(states, timesteps, classes)
    unguided = model(states, timesteps, torch.full_like(classes, ANY_CLASS))
    return unguided + scales[:, None] * (conditional - unguided), conditional


@torch.no_grad()
def sample(
    noise_model: NoiseModel,
    diffusion: Diffusion,
    noise: Float[Tensor, "B P"],
    classes: Int[Tensor, "B"],
    scales: Float[Tensor, "B"],
    num_steps: int,
) -> Float[Tensor, "B P"]:
    """Return the images that the deterministic sampler makes of the noise: one call of the model a step."""
    states, times = noise, diffusion.sampling_times(num_steps)
    for timestep, earlier in zip(times, [*times[1:], None], strict=True):
        here = torch.full((len(states),), timestep)
        states = diffusion.ddim_step(states, noise_model(states, here, classes, scales), timestep, earlier)
    return states


@torch.no_grad()
def rollout_states(
    model: DiffusionTransformer,
    diffusion: Diffusion,
    classes: Int[Tensor, "B"],
    scales: Float[Tensor, "B"],
    num_steps: int,
    generator: torch.Generator,
) -> GuidedStates:
    """Return every state of guided trajectories from noise, one class and scale each: no data is needed."""
    times = diffusion.sampling_times(num_steps)
    states = torch.randn(len(classes), _num_pixels(model), generator=generator)
    steps = []
    for timestep, earlier in zip(times, [*times[1:], None], strict=True):
        here = torch.full((len(classes),), timestep)
        guided, conditional = two_passes(model, states, here, classes, scales)
        steps.append((states, here, classes, scales, guided, conditional))
        states = diffusion.ddim_step(states, guided, timestep, earlier)
    return GuidedStates(*(torch.cat(parts) for parts in zip(*steps, strict=True)))


@torch.no_grad()
def noised_states(
    model: DiffusionTransformer,
    diffusion: Diffusion,
    images: Float[Tensor, "B P"],
    classes: Int[Tensor, "B"],
    scales: Float[Tensor, "B"],
    num_steps: int,
    generator: torch.Generator,
) -> GuidedStates:
    """Return noised data with the same targets: what rollouts are compared with. Timesteps are those that the sampler visits."""
    times = torch.tensor(diffusion.sampling_times(num_steps))
    timesteps = times[torch.randint(len(times), (len(images),), generator=generator)]
    states = diffusion.noised(images, timesteps, torch.randn(images.shape, generator=generator))
    guided, conditional = two_passes(model, states, timesteps, classes, scales)
    return GuidedStates(states, timesteps, classes, scales, guided, conditional)


def _num_pixels(model: DiffusionTransformer) -> int:
    return len(model.places) * model.entry.in_features
