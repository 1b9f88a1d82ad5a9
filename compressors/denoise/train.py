"""Train a denoiser, and its guidance adapters by regression on what two passes say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.denoise.adapters import DenoiserAdapters
from attar.compressors.denoise.diffusion import Diffusion
from attar.compressors.denoise.guidance import GuidedStates
from attar.compressors.denoise.transformer import ANY_CLASS, DiffusionTransformer

# Share of training images whose class is hidden: what the unguided branch is learned from
DROP_FRACTION = 0.15
WARMUP_FRACTION = 0.1


def train_denoiser(
    model: DiffusionTransformer,
    diffusion: Diffusion,
    images: Float[Tensor, "N P"],
    classes: Int[Tensor, "N"],
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> Iterator[float]:
    """Yield E ||eps - model(x_t, t, y)||^2 of each step, the class hidden from some. https://arxiv.org/abs/2006.11239"""
    optimizer, schedule = _optimizer(model, learning_rate, num_steps)
    for _ in range(num_steps):
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        timesteps = torch.randint(diffusion.num_timesteps, (batch_size,), generator=generator)
        noise = torch.randn(batch_size, images.shape[1], generator=generator)
        is_hidden = torch.rand(batch_size, generator=generator) < DROP_FRACTION
        shown = torch.where(is_hidden, ANY_CLASS, classes[chosen])
        loss = (model(diffusion.noised(images[chosen], timesteps, noise), timesteps, shown) - noise).square().mean()
        yield _step(loss, optimizer, schedule)


def train_adapters(
    adapters: DenoiserAdapters,
    states: GuidedStates,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> Iterator[float]:
    """Yield E ||adapters(x, t, c, w) - eps_guided||^2 of each step; the base stays as it is. https://arxiv.org/abs/2503.07274"""
    optimizer, schedule = _optimizer(adapters, learning_rate, num_steps)
    for _ in range(num_steps):
        part = states.chosen(torch.randint(len(states), (batch_size,), generator=generator))
        predicted = adapters(part.states, part.timesteps, part.classes, part.scales)
        yield _step((predicted - part.guided).square().mean(), optimizer, schedule)


@torch.no_grad()
def error_ratio(adapters: DenoiserAdapters, states: GuidedStates) -> float:
    """Return E ||adapters - guided||^2 / E ||conditional - guided||^2. 1 is no better than no guidance, 0 is guidance itself."""
    predicted = adapters(states.states, states.timesteps, states.classes, states.scales)
    error = (predicted - states.guided).square().mean(dtype=torch.float64)
    return float(error / (states.conditional - states.guided).square().mean(dtype=torch.float64))


def _optimizer(
    model: nn.Module, learning_rate: float, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    num_warmup = max(1, round(num_steps * WARMUP_FRACTION))

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
    return float(loss.detach())
