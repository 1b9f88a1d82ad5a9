"""What a denoiser's middle knows of an image's class, by nearest neighbours and by a linear probe on its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.compressors.diffusion.self_conditioning import pooled_features
from attar.compressors.images.probe import linear_classes, nearest_classes
from attar.compressors.measure.paired import share
from attar.registry.artifacts.facts import Facts
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.denoiser.folder import Denoiser
from attar.stages.artifacts.denoiser.images import LabelledImages, has_any_class
from attar.stages.compare.sample.config import ProbeConfig
from attar.stages.runtime.progress import bar, note

BATCH_SIZE = 256
KNN, LINEAR = "knn_accuracy", "linear_probe_accuracy"


def check_probe(config: ProbeConfig | None, model: Facts, others: Sequence[Facts], data: Sequence[Facts]) -> None:
    """Raise ValueError for a probe of what has no net, and of a net that must be told the class."""
    if config is None:
        return
    if "num_steps" in model or others:
        what = "a graph, which gives its images alone" if "num_steps" in model else "several students"
        raise ValueError(f"probe: the model is {what}; accepted: a single denoiser")
    if not has_any_class(model, data):
        raise ValueError(
            "probe: the model has no class beside the data's that means any, so that its features would be told the class that they are "
            "asked for; accepted: null"
        )


def probed(config: ProbeConfig, denoiser: Denoiser, train: LabelledImages, real: LabelledImages) -> dict[str, Any]:
    """Return which held-out images features tell rightly, by neighbours and by logistic regression, both of training images.

    An image is noised to a share of the timesteps, the class hidden. Always the same noise for the same images: models are in pairs.
    """
    counter = bar("reading features", len(train) + len(real), "images")
    features = []
    for seed, some in enumerate((train, real)):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(some.images.shape, generator=generator)
        features.append(_features(config, denoiser, some.images, noise, counter.advance))
    learned, queries = features
    classes = {
        KNN: nearest_classes(learned, train.labels, queries, config.num_neighbours),
        LINEAR: linear_classes(learned, train.labels, queries),
    }
    right = {name: (taken == real.labels).double().tolist() for name, taken in classes.items()}
    shown = ", ".join(f"{name} {share(rows).value:.1%}" for name, rows in right.items())
    note(f"features of the middle at {config.time_fraction:g} of the noise: {shown} of {len(real)} held-out images")
    return {"width": learned.shape[1], "right": right, **config.model_dump(mode="json")}


def probe_headline(probe: Mapping[str, Any]) -> dict[str, float]:
    """Return the shares with the ends of their intervals, by name."""
    numbers: dict[str, float] = {}
    for name, right in probe["right"].items():
        estimate = share(right)
        numbers |= {name: estimate.value, name + LOW: estimate.low, name + HIGH: estimate.high}
    return numbers


def _features(config: ProbeConfig, denoiser: Denoiser, images: Tensor, noise: Tensor, advance: Any) -> Tensor:
    device, process = next(denoiser.net.parameters()).device, denoiser.process
    time = int(config.time_fraction * process.num_timesteps)
    parts = []
    for some, added in zip(images.split(BATCH_SIZE), noise.split(BATCH_SIZE), strict=True):
        times = torch.full((len(some),), time)
        states, any_class = process.noised(some, times, added), torch.full((len(some),), denoiser.num_labels - 1)
        inputs = (states.to(device), times.to(device), any_class.to(device))
        parts.append(pooled_features(denoiser.net, denoiser.bottleneck, *inputs).cpu())
        advance(len(some))
    return torch.cat(parts)
