"""One seed of the study. A denoiser, adapters trained on guided rollouts and on noised data, and how near each comes to two passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attar.compressors.denoise.adapters import DenoiserAdapters
from attar.compressors.denoise.diffusion import Diffusion
from attar.compressors.denoise.guidance import GuidedStates, noised_states, rollout_states, sample, two_passes
from attar.compressors.denoise.train import error_ratio, train_adapters, train_denoiser
from attar.compressors.denoise.transformer import NUM_CLASSES, DiffusionTransformer
from attar.compressors.guidance.adapters import ScaleRange
from attar.registry.artifacts.files import whole_file, write_synced
from attar.stages.runtime.progress import bar, metric, note

# Share of the scale range, in its middle, that training states keep out of
UNSEEN_FRACTION = 0.1
# Scale at which whole samples are compared, as a place in the range
SAMPLE_POSITION = 0.6
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Study:
    """See DenoiseConfig."""

    adapter: str
    rank: int
    is_base_at_one: bool
    min_scale: float
    max_scale: float
    num_denoiser_steps: int
    num_adapter_steps: int
    batch_size: int
    learning_rate: float
    num_rollouts: int
    num_states: int
    num_heldout_rollouts: int
    num_sampler_steps: int

    @property
    def scales(self) -> ScaleRange:
        """The range of scales."""
        return ScaleRange(low=self.min_scale, high=self.max_scale, is_base_at_one=self.is_base_at_one)

    @property
    def unseen(self) -> tuple[float, float]:
        """The scales that training keeps out of."""
        middle, half = 0.5 * (self.min_scale + self.max_scale), 0.5 * (self.max_scale - self.min_scale)
        return middle - UNSEEN_FRACTION * half, middle + UNSEEN_FRACTION * half


@dataclass(frozen=True)
class StudyResult:
    """Squared errors to two passes over those of the conditional pass: lower is closer to guidance, 1 is none.

    `error_ratio`: on held-out guided states, `_unseen` at scales never trained on, `_noised` by adapters trained on noised data.
    `sample_ratio`: of finished images from the same noise.
    """

    error_ratio: float
    error_ratio_unseen: float
    error_ratio_noised: float
    sample_ratio: float
    num_calls_a_sample: int


def run_seed(study: Study, seed: int, folder: Path) -> StudyResult:
    """Return the numbers of one seed, from `folder` where an interrupted run had measured them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RESULT).exists():
        note(f"seed {seed} was finished before")
        return StudyResult(**json.loads((folder / RESULT).read_text()))
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
        torch.manual_seed(seed)
        result = _measure(study, seed, folder)
    write_synced(folder / RESULT, json.dumps(asdict(result)))
    return result


def digits() -> tuple[Float[Tensor, "N P"], Int[Tensor, "N"]]:
    """Return scikit-learn's 1,797 images of 8 x 8 digits in [-1, 1], flat, and their classes."""
    from sklearn.datasets import load_digits  # in an extra

    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 8.0 - 1.0, torch.tensor(classes)


def _measure(study: Study, seed: int, folder: Path) -> StudyResult:
    images, classes = digits()
    diffusion, base = Diffusion(), DiffusionTransformer()
    options = {"batch_size": study.batch_size, "learning_rate": study.learning_rate}

    def teach() -> Iterator[float]:
        steps = {"num_steps": study.num_denoiser_steps, "generator": _generator(seed, 0)}
        return train_denoiser(base, diffusion, images, classes, **options, **steps)

    _trained(base, folder / "denoiser.safetensors", teach, study.num_denoiser_steps, f"denoiser, seed {seed}")
    base.requires_grad_(False).eval()
    heldout = _rollouts(study, base, diffusion, study.num_heldout_rollouts, _generator(seed, 1), is_unseen=False)
    unseen = _rollouts(study, base, diffusion, study.num_heldout_rollouts, _generator(seed, 2), is_unseen=True)
    ratios: dict[str, tuple[float, float]] = {}
    for index, source in enumerate(("guided", "noised")):
        generator = _generator(seed, 3 + index)
        if source == "guided":
            states = _rollouts(study, base, diffusion, study.num_rollouts, generator, is_unseen=False)
            states = states.chosen(torch.randperm(len(states), generator=generator)[: study.num_states])
        else:
            chosen = torch.randint(len(images), (study.num_states,), generator=generator)
            scales = _scales(study, study.num_states, generator, is_unseen=False)
            states = noised_states(
                base, diffusion, images[chosen], classes[chosen], scales, study.num_sampler_steps, generator
            )
        adapters = DenoiserAdapters(base, study.adapter, study.rank, study.scales)  # type: ignore[arg-type]
        steps = {"num_steps": study.num_adapter_steps, "generator": _generator(seed, 5)}

        def learn(adapters: DenoiserAdapters = adapters, states: GuidedStates = states, steps=steps) -> Iterator[float]:
            return train_adapters(adapters, states, **options, **steps)

        label = f"adapters on {source} states, seed {seed}"
        _trained(adapters, folder / f"adapters-{source}.safetensors", learn, study.num_adapter_steps, label)
        ratios[source] = error_ratio(adapters, heldout), error_ratio(adapters, unseen)
        if source == "guided":
            sample_ratio, num_calls = _samples(study, base, adapters, diffusion, _generator(seed, 6))
    return StudyResult(*ratios["guided"], ratios["noised"][0], sample_ratio, num_calls)


def _trained(module: nn.Module, path: Path, train, num_steps: int, label: str) -> None:
    """Train a module, or load what an interrupted run had trained; nothing is kept of a training that was not finished."""
    if path.exists():
        module.load_state_dict(load_file(path))
        return
    counter, name = bar(label, num_steps, "steps"), label.split(",", maxsplit=1)[0].replace(" ", "_")
    losses: list[float] = []
    for step, loss in enumerate(train(), 1):
        losses.append(loss)
        counter.advance()
        if step % 100 == 0 or step == num_steps:
            metric(f"train_{name}_squared_error", sum(losses) / len(losses), step)
            losses = []
    with whole_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, temporary)


def _samples(
    study: Study,
    base: DiffusionTransformer,
    adapters: DenoiserAdapters,
    diffusion: Diffusion,
    generator: torch.Generator,
) -> tuple[float, int]:
    """Return (squared error of finished images to guided ones, over that of unguided ones; calls of the base one sample took)."""
    noise = torch.randn(study.num_heldout_rollouts, 64, generator=generator)
    classes = torch.arange(len(noise)) % NUM_CLASSES
    scales = torch.full((len(noise),), study.min_scale + SAMPLE_POSITION * (study.max_scale - study.min_scale))
    calls = 0

    def count(*args: object) -> None:
        nonlocal calls
        calls += 1

    handle = base.register_forward_hook(count)
    one_pass = sample(adapters, diffusion, noise, classes, scales, study.num_sampler_steps)
    handle.remove()
    guided, plain = (
        sample(
            lambda *args, which=which: two_passes(base, *args)[which],
            diffusion,
            noise,
            classes,
            scales,
            study.num_sampler_steps,
        )
        for which in (0, 1)
    )
    return float((one_pass - guided).square().mean() / (plain - guided).square().mean()), calls


def _rollouts(
    study: Study,
    base: DiffusionTransformer,
    diffusion: Diffusion,
    num_rollouts: int,
    generator: torch.Generator,
    *,
    is_unseen: bool,
) -> GuidedStates:
    classes = torch.randint(NUM_CLASSES, (num_rollouts,), generator=generator)
    scales = _scales(study, num_rollouts, generator, is_unseen=is_unseen)
    return rollout_states(base, diffusion, classes, scales, study.num_sampler_steps, generator)


def _scales(study: Study, num_scales: int, generator: torch.Generator, *, is_unseen: bool) -> Float[Tensor, "N"]:
    uniform = torch.rand(num_scales, generator=generator)
    low, high = study.unseen
    if is_unseen:
        return low + uniform * (high - low)
    scales = study.min_scale + uniform * (study.max_scale - study.min_scale - (high - low))
    return torch.where(scales < low, scales, scales + (high - low))


def _generator(seed: int, part: int) -> torch.Generator:
    """Return the generator of one part of a seed: a part that is loaded instead of made leaves the others as they were."""
    return torch.Generator().manual_seed(seed * 1_000 + part)
