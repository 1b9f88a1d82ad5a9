"""Stage `denoise`: the guidance adapters where they were published, on a small diffusion transformer that learns scikit-learn's digits."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from attar.registry.artifacts.handles import ComparisonArtifact
from attar.stages.contract import NoInputs, StageConfig, stage
from attar.stages.guidance.denoise_study import Study, StudyResult, run_seed
from attar.stages.runtime.older_fields import Moved, named_kind, within
from attar.stages.runtime.progress import metric, note

RESULT = "comparison.json"


class AdapterConfig(StageConfig):
    """The adapters, and the guidance scales that they learn."""

    kind: Literal["cross", "offset"] = "cross"
    """cross: attention over scale, timestep and class; offset: a vector of them."""

    rank: int = Field(default=32, ge=2)
    """Width inside an adapter."""

    is_base_at_one: bool = False
    """Multiply the adapters' output by w - 1. False: the published form."""

    min_scale: float = Field(default=1.0, ge=0.0)
    """Smallest guidance scale of the training states."""

    max_scale: float = Field(default=6.0, gt=0.0)
    """Largest guidance scale of the training states."""


class TrainingConfig(StageConfig):
    """How long denoiser and adapters learn."""

    num_denoiser_steps: int = Field(default=3000, ge=1)
    """Steps in which the denoiser learns the digits."""

    num_adapter_steps: int = Field(default=2500, ge=1)
    """Steps in which adapters learn from guided states, and again from noised data."""

    batch_size: int = Field(default=128, ge=1)
    """Images or states behind a step."""

    learning_rate: float = Field(default=3e-3, gt=0.0)
    """Peak learning rate of both trainings."""


class StatesConfig(StageConfig):
    """The states that are learned from and measured on."""

    num_rollouts: int = Field(default=2400, ge=2)
    """Guided trajectories that training states are taken from."""

    num_states: int = Field(default=30000, ge=1)
    """States kept of them, and of noised data."""

    num_heldout_rollouts: int = Field(default=400, ge=2)
    """Trajectories from noise of their own that the error is measured on."""

    num_sampler_steps: int = Field(default=25, ge=2)
    """Steps of the sampler."""


class DenoiseConfig(StageConfig):
    """The denoiser, the adapters, and what they must reach."""

    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """A denoiser and its adapters are trained for each."""

    adapter: AdapterConfig = AdapterConfig()
    """The adapters, and the guidance scales that they learn."""

    training: TrainingConfig = TrainingConfig()
    """How long denoiser and adapters learn."""

    states: StatesConfig = StatesConfig()
    """The states that are learned from and measured on."""

    max_error_ratio: float = Field(default=0.6, gt=0.0)
    """Gate: squared error to guided noise on held-out guided states over that of the conditional pass, every seed."""

    max_data_ratio: float = Field(default=1.0, gt=0.0)
    """Gate: that error over the error of adapters trained on noised data instead, every seed."""

    moved: ClassVar[Mapping[str, Moved]] = {
        "adapter": Moved("adapter", named_kind),
        **within("adapter", "rank", "is_base_at_one", "min_scale", "max_scale"),
        **within("training", *TrainingConfig.model_fields),
        **within("states", *StatesConfig.model_fields),
    }

    @model_validator(mode="after")
    def _fits_together(self) -> DenoiseConfig:
        low, high = self.adapter.min_scale, self.adapter.max_scale
        if low >= high:
            raise ValueError(f"min_scale {low:g} is not below max_scale {high:g}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; accepted: different ones")
        return self


@stage("denoise", version=2)
def denoise(config: DenoiseConfig, inputs: NoInputs, workdir: Path) -> ComparisonArtifact:
    """Train a class-conditional denoiser, distil its guidance into adapters, and measure both kinds of training states.

    https://arxiv.org/abs/2503.07274. Each finished training is kept for a run that is interrupted. Raises ValueError when a gate is
    not passed.
    """
    adapter = config.adapter.model_dump(exclude={"kind"})
    study = Study(adapter=config.adapter.kind, **adapter, **config.training.model_dump(), **config.states.model_dump())
    results = [run_seed(study, seed, workdir / f"seed-{seed}") for seed in config.seeds]
    for seed, result in zip(config.seeds, results, strict=True):
        _report(config, seed, result)
    content = workdir / "content"
    content.mkdir(exist_ok=True)
    spreads = {name: _spread([result[name] for result in map(asdict, results)]) for name in asdict(results[0])}
    by_seed = {f"seed {seed}": asdict(result) for seed, result in zip(config.seeds, results, strict=True)}
    (content / RESULT).write_text(json.dumps({"denoiser": spreads, "seeds": by_seed}, indent=1))
    for seed in config.seeds:
        for path in sorted((workdir / f"seed-{seed}").glob("*.safetensors")):
            (content / f"seed-{seed}-{path.name}").write_bytes(path.read_bytes())
    return ComparisonArtifact.at(content, {name: entry["value"] for name, entry in spreads.items()})


def _report(config: DenoiseConfig, seed: int, result: StudyResult) -> None:
    for name, value in _numbers(result):
        metric(name, value, step=seed)
    note(
        f"seed {seed}: error {result.error_ratio:.3f} of the conditional pass, {result.error_ratio_unseen:.3f} at new scales, "
        f"{result.error_ratio_noised:.3f} when trained on noised data; {result.num_calls_a_sample} passes a sample instead of "
        f"{2 * result.num_calls_a_sample}"
    )
    if not result.error_ratio <= config.max_error_ratio:
        raise ValueError(
            f"seed {seed}: error ratio {result.error_ratio:.3f} on guided states; accepted: at most {config.max_error_ratio:g}"
        )
    data_ratio = result.error_ratio / result.error_ratio_noised
    if not data_ratio <= config.max_data_ratio:
        raise ValueError(
            f"seed {seed}: states of guided rollouts give {data_ratio:.3f} of the error that noised data gives; "
            f"accepted: at most {config.max_data_ratio:g}"
        )


def _numbers(result: StudyResult) -> Iterator[tuple[str, float]]:
    yield from asdict(result).items()


def _spread(values: list[float]) -> dict[str, float]:
    """Return mean, lowest and highest over the seeds, under the names that comparisons use."""
    return {"value": statistics.fmean(values), "low": min(values), "high": max(values)}
