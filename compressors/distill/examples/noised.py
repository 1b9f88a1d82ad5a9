"""Images as a denoiser's training examples. Drawn anew for every step: noise, timestep, the class that is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.steps import Clock

# Numbers in [0, 1) that each example brings: for its timestep, what is shown, and what a loss draws beside.
NUM_UNIFORM = 4
# Which of them a scale of guidance is made of.
SCALE = 2
# What a start gives in place of a class that the net is not told.
HIDDEN = -1


@dataclass(frozen=True)
class NoisedImage:
    """An image with its class, and once drawn the state that the student reads. Two more noises are for a loss to use."""

    image: Float[Tensor, "C H W"]
    label: int
    state: Float[Tensor, "C H W"] | None = None
    time: int = 0
    shown: int = 0
    noises: Float[Tensor, "2 C H W"] | None = None
    uniform: Float[Tensor, "U"] | None = None
    facts: SampleFacts = field(default_factory=SampleFacts)

    @property
    def num_tokens(self) -> int:
        return 1


@dataclass(frozen=True)
class NoisedBatch:
    """Drawn images; a position is an image. `shown`: the class that the net is told, `any class` where it is hidden."""

    images: Float[Tensor, "B C H W"]
    states: Float[Tensor, "B C H W"]
    times: Int[Tensor, "B"]
    shown: Int[Tensor, "B"]
    noises: Float[Tensor, "B 2 C H W"]
    uniform: Float[Tensor, "B U"]
    facts: tuple[SampleFacts, ...]

    @property
    def num_positions(self) -> int:
        return len(self.images)

    def on(self, device: torch.device) -> NoisedBatch:
        """Return the batch on a device."""
        names = ("images", "states", "times", "shown", "noises", "uniform")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved)

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> NoisedBatch:
        return self


@dataclass(frozen=True)
class Draws:
    """What a step draws for B images: two noises and some numbers in [0, 1) each."""

    images: Float[Tensor, "B C H W"]
    labels: Int[Tensor, "B"]
    noises: Float[Tensor, "B 2 C H W"]
    uniform: Float[Tensor, "B U"]


class StartOf(Protocol):
    """Where a training's states begin. Equal ones can be learned from together."""

    def states(self, process: NoiseProcess, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Return (states, timesteps, classes shown, HIDDEN for none)."""
        ...


@dataclass
class NoisedStates:
    """Draws the states of each step by its number, so that a resumed run draws the same ones."""

    process: NoiseProcess
    start: StartOf
    any_class: int
    seed: int

    def examples(self, student: Any, given: Sequence[NoisedImage], clock: Clock) -> list[NoisedImage]:
        """Return the images of a step with their states."""
        return self.drawn(given, clock.step)

    def facts(self) -> dict[str, float]:
        """Return nothing: what is drawn says nothing of the student."""
        return {}

    def drawn(self, given: Sequence[NoisedImage], step: int) -> list[NoisedImage]:
        """Return images with the states of a step. Held-out ones have step -1."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 1)
        images = torch.stack([example.image for example in given])
        noises = torch.randn(len(given), 2, *images.shape[1:], generator=generator)
        uniform = torch.rand(len(given), NUM_UNIFORM, generator=generator)
        draws = Draws(images, torch.tensor([example.label for example in given]), noises, uniform)
        states, times, shown = self.start.states(self.process, draws)
        shown = torch.where(shown == HIDDEN, self.any_class, shown)
        return [
            replace(
                example,
                state=states[row],
                time=int(times[row]),
                shown=int(shown[row]),
                noises=noises[row],
                uniform=uniform[row],
            )
            for row, example in enumerate(given)
        ]


def scales_between(uniform: Float[Tensor, "B *U"], low: float, high: float) -> Float[Tensor, "B"]:
    """Return the scale of guidance of each example, drawn evenly. `uniform`: its numbers, or the one that the scale is made of."""
    number = uniform[:, SCALE] if uniform.ndim == 2 else uniform
    return low + (high - low) * number


def noised_batches(examples: Sequence[NoisedImage], order: Sequence[int], batch_size: int) -> Iterator[NoisedBatch]:
    """Yield batches of at most `batch_size` drawn images in the given order."""
    for start in range(0, len(order), batch_size):
        yield noised_batch([examples[index] for index in order[start : start + batch_size]])


def noised_batch(examples: Sequence[NoisedImage]) -> NoisedBatch:
    """Return the batch of these drawn images."""
    stacked = [
        torch.stack([getattr(example, name) for example in examples])
        for name in ("image", "state", "noises", "uniform")
    ]
    numbers = [torch.tensor([getattr(example, name) for example in examples]) for name in ("time", "shown")]
    images, states, noises, uniform = stacked
    return NoisedBatch(images, states, *numbers, noises, uniform, tuple(example.facts for example in examples))  # type: ignore[arg-type]
