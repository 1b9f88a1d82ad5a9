"""Consistency within segments of the teacher's path, which become fewer and longer until a single step goes all the way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import Draws, NoisedBatch
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class OnGrid:
    """Noised images at one of the timesteps that a sampler of so many steps visits. The first of them is pure noise."""

    num_points: int

    def states(self, process: NoiseProcess, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        times = torch.tensor([time for time, _ in process.steps(self.num_points)])
        chosen = times[(draws.uniform[:, 0] * self.num_points).long()]
        return process.noised(draws.images, chosen, draws.noises[:, 0]), chosen, draws.labels


@dataclass(frozen=True)
class SegmentConsistency:
    """d(f(x_t, t -> b), sg f'(x_s, s -> b)), b the end of a segment. The student's move from t is held to its own from s.

    x_s: one step of the teacher's sampler from x_t, of `num_points` steps in all; f': who stands behind `past`; b of `num_segments`.
    d is the mean square over the square of the move's gain, so that short segments weigh like long ones: the distance of the predicted v.
    Trajectory-segmented consistency, https://arxiv.org/abs/2404.13686, without its adversarial part and reward tuning.
    """

    num_segments: int = 8
    num_points: int = 40
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_points < 2:
            raise ValueError(f"num_points is {self.num_points}; accepted: 2 or more")
        if self.num_segments < 1 or self.num_points % self.num_segments or self.num_segments == self.num_points:
            raise ValueError(
                f"num_segments is {self.num_segments}, which does not part {self.num_points} points; accepted: a divisor of it"
            )

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher", "past"}))

    @property
    def start(self) -> OnGrid:
        return OnGrid(self.num_points)

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process = views.batch, views.process
        times = batch.times
        earlier, end = self.bounds(process, times)
        with torch.no_grad():
            toward = views.of("teacher", self.guidance_scale)(batch.states, times, batch.shown)
            middle = process.moved(batch.states, times, toward, earlier)
            # where the teacher's step ends the segment, its end is the target, whatever the student would make of it
            read = torch.where(earlier == end, times, earlier)
            own = process.moved(middle, read, views.of("past")(middle, read, batch.shown), end)
            target = torch.where((earlier == end)[:, None, None, None], middle, own)
        moved = process.moved(batch.states, times, views.student, end)
        return all_count(mean_square((moved - target) / process.gain(times, end)))

    def bounds(self, process: NoiseProcess, times: Int[Tensor, "B"]) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
        """Return (where the teacher's step from each timestep ends, where its segment does)."""
        steps = process.steps(self.num_points)
        index = {time: number for number, (time, _) in enumerate(steps)}
        length = self.num_points // self.num_segments
        ends = [later for _, later in steps]
        numbers = [index[time] for time in times.tolist()]
        last = [ends[number // length * length + length - 1] for number in numbers]
        return times.new_tensor([ends[number] for number in numbers]), times.new_tensor(last)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if {"teacher", "past"} & {*moving} else self
