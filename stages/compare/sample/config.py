"""What `sample` is told and given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from attar.registry.artifacts.handles import (
    AdapterArtifact,
    DenoiserArtifact,
    ImageDatasetArtifact,
    SamplerGraphArtifact,
)
from attar.stages.contract import StageConfig


class ClassifierConfig(StageConfig):
    """The classifier whose features images are compared by; it learns the data's training part."""

    num_steps: int = Field(default=400, ge=1)
    """Steps of 128 training images. Classifiers of one data set and one number of steps are the same one."""

    num_draws: int = Field(default=50, ge=2)
    """Draws of the images with replacement behind each interval."""


class ProbeConfig(StageConfig):
    """At what noise a denoiser's features are read, and by how many neighbours classes are told. The class is hidden from the net."""

    time_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How far the images are noised, as a share of the timesteps in [0, 1): features of little noise tell classes best."""

    num_neighbours: int = Field(default=20, ge=1)
    """Training images that vote on each held-out one."""


class SampleConfig(StageConfig):
    """How images are drawn, how many, and what they are compared with."""

    num_steps: int = Field(default=25, ge=1, le=100)
    """Steps of the sampler, a divisor of the scheduler's timesteps; of a graph those that are in it."""

    guidance_scale: float = Field(default=1.0, ge=0.0)
    """Guidance toward the class, at two forwards a step; 1: none, one forward. With the input guidance one forward at any scale it learned."""

    num_images: int = Field(default=1000, ge=20, le=1_000_000)
    """Images drawn with each seed, the same number of each class."""

    batch_size: int = Field(default=100, ge=1)
    """Images drawn together."""

    seeds: list[int] = Field(default=[0], min_length=1)
    """Seeds of the noise; figures are means over them."""

    classifier: ClassifierConfig = ClassifierConfig()
    """The classifier whose features images are compared by; it learns the data's training part."""

    probe: ProbeConfig | None = None
    """How well classes can be told by the features of the denoiser's middle: {time_fraction: 0.1, num_neighbours: 20}; null: not measured."""

    part: Literal["heldout", "choose"] = "heldout"
    """Which images the drawn ones are compared with: heldout, those that are reported, or choose, those that choices are made on."""

    routes: list[list[int]] = []
    """The classes that the model draws, then those of each of `others`: every class one's, and one's alone; empty: the model draws all."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError(f"seeds are {value}; accepted: different ones")
        return value


@dataclass(frozen=True, kw_only=True)
class SampleInputs:
    """A denoiser or the graph of its sampler, and images. Their training part is for the classifier, the others to compare with.

    `others`: students that draw the classes which the model does not, as `routes` says.
    `guidance`: adapters that guide the denoiser in one forward.
    """

    model: DenoiserArtifact | SamplerGraphArtifact
    data: ImageDatasetArtifact
    others: tuple[DenoiserArtifact, ...] = ()
    guidance: AdapterArtifact | None = None
