"""States that a guided sampler visits on its way from noise. A net that is to be guided in one pass will meet them; no image is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.diffusion.net import Predict, two_passes
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import SCALE, Draws, scales_between

BATCH_SIZE = 100


@dataclass(frozen=True, kw_only=True)
class GuidedPaths:
    """The paths that states are taken from: how many, in how many steps of the sampler, at which scales."""

    num_rollouts: int
    num_steps: int
    min_scale: float
    max_scale: float

    @torch.no_grad()
    def over(
        self,
        teacher: Predict,
        process: NoiseProcess,
        shape: tuple[int, ...],
        num_classes: int,
        any_class: int,
        seed: int,
        on_rolled: Callable[[int], None] = lambda count: None,
    ) -> VisitedStates:
        """Return every state of a net that is rolled out under guidance from noise. Each path has a class and a scale of its own."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.num_rollouts, *shape, generator=generator)
        classes = torch.randint(num_classes, (self.num_rollouts,), generator=generator)
        numbers = torch.rand(self.num_rollouts, generator=generator)
        parts = []
        for rows in torch.arange(self.num_rollouts).split(BATCH_SIZE):
            scales = scales_between(numbers[rows], self.min_scale, self.max_scale)
            parts.append(self._path(teacher, process, noise[rows], classes[rows], scales, any_class))
            on_rolled(len(rows))
        times = torch.tensor([time for time, _ in process.steps(self.num_steps)])
        return VisitedStates(torch.cat(parts, dim=1), times, classes, numbers)

    def _path(
        self, teacher: Predict, process: NoiseProcess, states: Tensor, classes: Tensor, scales: Tensor, any_class: int
    ) -> Float[Tensor, "S B ..."]:
        visited = []
        for time, later in process.steps(self.num_steps):
            visited.append(states)
            times = torch.full_like(classes, time)
            guided = two_passes(teacher, states, times, classes, scales, any_class).cpu()
            states = process.moved(states, times, guided, torch.full_like(classes, later))
        return torch.stack(visited)


@dataclass(frozen=True, eq=False)
class VisitedStates:
    """The states of R paths of S steps. Each draw gives one of them, with its path's class and the number that its scale is made of."""

    visited: Float[Tensor, "S R C H W"]
    times: Int[Tensor, "S"]
    classes: Int[Tensor, "R"]
    numbers: Float[Tensor, "R"]

    def states(self, process: NoiseProcess, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Return (states, timesteps, classes) of a draw, and put the number of each path's scale where a loss reads it."""
        num_steps, num_paths = self.visited.shape[:2]
        chosen = (draws.uniform[:, 0] * num_steps * num_paths).long()
        step, path = chosen // num_paths, chosen % num_paths
        draws.uniform[:, SCALE] = self.numbers[path]
        return self.visited[step, path], self.times[step], self.classes[path]
