"""Stage `sample`: draw images from a denoiser or its graph. Measured are their distance to real ones and what each costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.diffusion.classifier import Classified, FeatureClassifier, trained_classifier
from attar.compressors.diffusion.frechet import bootstrap_draws, frechet_distance, precision_and_recall
from attar.registry.artifacts.environment import machine_name
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.kinds.kind_facts import EvaluationFacts
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.artifacts.denoiser.guidance import check_guidance
from attar.stages.artifacts.denoiser.images import LabelledImages, check_images, has_any_class, read_images
from attar.stages.artifacts.work_forecast import FORWARD
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.drawing import Drawing, opened
from attar.stages.compare.sample.grid import write_grid
from attar.stages.compare.sample.probe import check_probe, probe_headline, probed
from attar.stages.compare.sample.routes import check_routes, routed
from attar.stages.contract import Forecast, stage
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, metric, note

RESULT, GRID = "evaluation.json", "grid.png"
# Images drawn alone and timed, after one that warms up.
NUM_TIMED = 10
# Half of a 95% interval in standard deviations.
NORMAL_95 = 1.96


def _forecast(config: SampleConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"]
    check_images(model, data)
    check_routes(config.routes, model, inputs.get("others", ()), data[0])
    check_probe(config.probe, model, inputs.get("others", ()), data)
    if config.guidance_scale != 1.0 and not has_any_class(model, data):
        raise ValueError(
            f"guidance_scale is {config.guidance_scale:g}, but the model has no class beside the data's that means any; accepted: 1"
        )
    is_guided_graph = "min_scale" in model
    if is_guided_graph:
        check_guidance(model, config.guidance_scale)
    if "num_steps" in model and (
        config.num_steps != model["num_steps"] or (config.guidance_scale != 1.0 and not is_guided_graph)
    ):
        raise ValueError(
            f"num_steps is {config.num_steps} at guidance_scale {config.guidance_scale:g}, but {model['num_steps']} steps without guidance "
            "are in the graph; accepted: those"
        )
    if model.get("num_timesteps", 0) % config.num_steps:
        raise ValueError(
            f"num_steps is {config.num_steps}, which does not divide the {model['num_timesteps']} timesteps of the scheduler; accepted: a divisor"
        )
    guidance = inputs.get("guidance", ())
    if guidance and "num_steps" in model:
        raise ValueError("guidance: adapters hang beside a denoiser's net, and the model is a graph; accepted: none")
    for adapter in guidance:
        check_guidance(adapter, config.guidance_scale)
    is_one_pass = config.guidance_scale == 1.0 or bool(guidance) or is_guided_graph
    num_forwards = config.num_steps * (1 if is_one_pass else 2)
    num_images = config.num_images * len(config.seeds)
    flops = FORWARD * float(model.get("num_products", 0)) * num_images * num_forwards
    return Forecast(
        {"part": config.part, "num_forwards": num_forwards}, flops, 6.0 * float(model.get("num_parameters", 0))
    )


@stage("sample", version=2, forecast=_forecast)
def sample(config: SampleConfig, inputs: SampleInputs, workdir: Path) -> EvaluationArtifact:
    """Draw images of every class and measure them against held-out ones by a classifier's features.

    The classifier learns the training part. Frechet distance, precision and recall, the share that is taken for the class that was asked
    for, forwards and seconds an image; a picture of some. Each finished seed is kept for a run that is interrupted. Raises ValueError for
    data without a held-out part.
    """
    content, facts = workdir / "content", inputs.model.facts
    num_channels, side = facts.num_image_channels, facts.sample_size
    train, real = (read_images(inputs.data, split, num_channels, side) for split in ("train", config.part))
    if len(real) < 20 or not len(train):
        raise ValueError(
            f"the data has {len(train)} training and {len(real)} {config.part} images; accepted: some to train the classifier, 20 to compare with"
        )
    num_classes = inputs.data.facts.num_classes
    num_steps = config.classifier.num_steps
    counter = bar("training the classifier", num_steps, "steps")
    classifier = trained_classifier(train.images, train.labels, num_classes, num_steps, counter.advance)
    drawing = _drawing(config, inputs, num_classes)
    seeds = [_seed(config, drawing, seed, workdir / f"seed-{seed}.pt") for seed in config.seeds]
    classified = Classified.of(classifier, real.images)
    measured = [_measures(config, classifier, classified, drawn) for drawn in seeds]
    evaluation: dict[str, Any] = {
        **_described(config, inputs),
        "num_forwards": seeds[0].num_forwards,
        "classifier_accuracy": float((classified.classes == real.labels).float().mean()),
        "floor": _floor(train, real, classifier),
        "seeds": {str(seed): some for seed, some in zip(config.seeds, measured, strict=True)},
        "latency": _latency(drawing, num_classes),
    }
    if config.probe is not None:
        denoiser = load_denoiser(inputs.model.path, pick_device())
        evaluation["probe"] = probed(config.probe, denoiser, train, real)
    write_grid(seeds[0].images, seeds[0].labels, content / GRID)
    (content / RESULT).write_text(json.dumps(evaluation, indent=1))
    headline = sample_headline(evaluation)
    for name, value in headline.items():
        metric(name, value)
    _tell(evaluation, headline)
    made_of = {"format": inputs.model.kind, "model_fingerprint": inputs.model.fingerprint, "part": config.part}
    return EvaluationArtifact.at(content, EvaluationFacts(**made_of, others=headline))


def _drawing(config: SampleConfig, inputs: SampleInputs, num_classes: int) -> Drawing:
    models = (inputs.model, *inputs.others)
    return routed([opened(model, config, num_classes, inputs.guidance) for model in models], config.routes)


def _described(config: SampleConfig, inputs: SampleInputs) -> dict[str, Any]:
    return {
        "format": inputs.model.kind,
        "model_fingerprint": inputs.model.fingerprint,
        "part": config.part,
        "num_steps": config.num_steps,
        # what two evaluations must have in common for their distances to compare, and their draws to be pairs
        "drawn": {
            "data": inputs.data.fingerprint,
            **config.model_dump(mode="json", include={"num_images", "seeds", "classifier", "part"}),
        },
        "num_parameters": inputs.model.facts.num_parameters,
        "disk_bytes": sum(_disk_bytes(model.path) for model in (inputs.model, *inputs.others)),
        # what an evaluation of a causal model has: nothing of it is measured here
        "tasks": {},
        "right": {},
        "perplexity": None,
        "text_pieces": [],
        "samples": [],
    }


def sample_headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers by name, with the ends of their intervals."""
    seeds = list(evaluation["seeds"].values())
    numbers = {name: float(evaluation[name]) for name in ("num_parameters", "disk_bytes", "num_forwards")}
    for name in ("frechet_distance", "class_accuracy", "precision", "recall"):
        numbers[name] = statistics.fmean(seed[name] for seed in seeds)
        # draws of the images and, with several seeds, draws of the noise
        within = statistics.fmean(seed[f"{name}_deviation"] for seed in seeds) / len(seeds) ** 0.5
        between = statistics.stdev(seed[name] for seed in seeds) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
        half = NORMAL_95 * max(within, between)
        numbers[name + LOW], numbers[name + HIGH] = max(0.0, numbers[name] - half), numbers[name] + half
    for end in ("", LOW, HIGH):
        numbers["image_seconds" + end] = evaluation["latency"]["image_seconds" + end]
    return numbers | (probe_headline(evaluation["probe"]) if "probe" in evaluation else {})


@dataclass(frozen=True)
class Drawn:
    """The images of one seed with the classes that were asked for, and the forwards that each took."""

    images: Tensor
    labels: Tensor
    num_forwards: int


def _seed(config: SampleConfig, drawing: Drawing, seed: int, path: Path) -> Drawn:
    """Return the images of a seed, from `path` where an interrupted run had drawn them."""
    if path.exists():
        note(f"continuing: the images of seed {seed} were drawn before")
        return Drawn(**torch.load(path, weights_only=True))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(config.num_images) % drawing.num_classes
    noise = torch.randn(config.num_images, *drawing.shape, generator=generator)
    counter, parts = bar(f"drawing images, seed {seed}", config.num_images, "images"), []
    before = drawing.num_forwards
    for some, classes in zip(noise.split(config.batch_size), labels.split(config.batch_size), strict=True):
        parts.append(drawing(some, classes))
        counter.advance(len(some))
    num_forwards = (drawing.num_forwards - before) // len(parts)
    drawn = {"images": torch.cat(parts), "labels": labels, "num_forwards": num_forwards}
    torch.save(drawn, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    return Drawn(**drawn)


def _measures(config: SampleConfig, classifier: FeatureClassifier, real: Classified, drawn: Drawn) -> dict[str, Any]:
    made = Classified.of(classifier, drawn.images)
    is_right = (made.classes == drawn.labels).double()

    def measures(chosen: Tensor) -> dict[str, float]:
        precision, recall = precision_and_recall(made.features[chosen], real.features)
        return {
            "frechet_distance": frechet_distance(made.features[chosen], real.features),
            "class_accuracy": float(is_right[chosen].mean()),
            "precision": precision,
            "recall": recall,
        }

    count = len(made.classes)
    draws = bootstrap_draws(measures, drawn.labels, config.classifier.num_draws)
    deviations = {f"{name}_deviation": statistics.stdev(values) for name, values in draws.items()}
    return {**measures(torch.arange(count)), **deviations, "draws": draws}


def _floor(train: LabelledImages, real: LabelledImages, classifier: FeatureClassifier) -> float:
    """Return the distance of training images from held-out ones: what a perfect denoiser would come to."""
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(real)]
    return frechet_distance(
        Classified.of(classifier, train.images[chosen]).features, Classified.of(classifier, real.images).features
    )


def _latency(drawing: Drawing, num_classes: int) -> dict[str, Any]:
    """Return seconds for one image drawn alone, median and quartiles of ten, and the conditions."""
    noise, label = torch.randn(1, *drawing.shape, generator=torch.Generator().manual_seed(0)), torch.zeros(1).long()
    seconds = []
    for _ in range(NUM_TIMED + 1):
        started = time.perf_counter()
        drawing(noise, label % num_classes)
        seconds.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(seconds[1:], n=4)  # the first one warms up
    conditions = {"machine": machine_name(), "num_threads": torch.get_num_threads(), "num_rounds": NUM_TIMED}
    return {"image_seconds": middle, "image_seconds" + LOW: low, "image_seconds" + HIGH: high, **conditions}


def _disk_bytes(folder: Path) -> int:
    weights = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".onnx", ".onnx_data"))
    return sum(path.stat().st_size for path in weights)


def _tell(evaluation: Mapping[str, Any], headline: Mapping[str, float]) -> None:
    note(
        f"{evaluation['num_steps']} steps, {evaluation['num_forwards']} forwards an image: Frechet distance "
        f"{headline['frechet_distance']:.3f} (real images {evaluation['floor']:.3f}), {headline['class_accuracy']:.1%} of the class asked "
        f"for (the classifier is right on {evaluation['classifier_accuracy']:.1%} of real ones), {1e3 * headline['image_seconds']:.1f} ms an image"
    )
