"""Stage `search_blocks`: by which gates an image classifier's blocks are worth keeping, searched while its weights learn beside."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attar.compressors.images.layout import image_blocks
from attar.compressors.images.search import SEARCHED, Search, SearchRates, Supernet
from attar.compressors.images.statistics import without_open_gates
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.files import whole_file
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact, ScanArtifact
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.images.dataset import ImageBytes, read_image_rows
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PixelReader, StoredPixels, pixel_batches
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import Metric, bar, emit, metric, note
from attar.stages.scan.image_classifier import that_can_go, write_block_scores

STATE = "search.pt"
# What a search holds in place of what a scan computes beside its scores.
FACTS: Facts = {"metrics": (SEARCHED,), "sizes": (), "num_greedy_steps": 0, "has_latency": False, "axes": ()}
# Images at once where no gradient is taken.
EVALUATED_AT_ONCE = 128


class VotingConfig(StageConfig):
    """The teachers of the weights: the net itself at earlier steps, gates and all. https://arxiv.org/abs/2302.05629"""

    num_teachers: int = Field(default=3, ge=1, le=20)
    """How many earlier nets vote; each is kept in memory and runs once a step."""

    every: int = Field(default=10, ge=1)
    """Steps between one and the next."""

    weight: float = Field(default=1.0, ge=0.0)
    """Of their KL divergence beside the labels; 0: none, which is DARTS of the first order."""


class SearchBlocksConfig(StageConfig):
    """How long is searched, how fast weights and gates move, who teaches beside the labels."""

    num_steps: int = Field(default=200, ge=1)
    """Steps, each of the gates on images for choices, then of the weights on training images."""

    batch_size: int = Field(default=64, ge=2)
    """Images of each."""

    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Of the weights, which are of no use behind the search."""

    gate_rate: float = Field(default=1e-2, gt=0.0)
    """Of the gates."""

    voting: VotingConfig = VotingConfig()
    """The teachers of the weights."""

    num_removed: int = Field(default=1, ge=1)
    """Blocks that are taken out for the figure of what the choice loses: those with the lowest gates."""

    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between files to go on from."""

    seed: int = Field(default=0, ge=0)
    """Of the images of each step."""

    @model_validator(mode="after")
    def _votes_in_time(self) -> SearchBlocksConfig:
        if self.voting.weight and self.voting.every >= self.num_steps:
            raise ValueError(
                f"voting.every is {self.voting.every}, but num_steps is {self.num_steps}, so that nobody ever votes; accepted: fewer steps "
                "between teachers, or voting.weight 0"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class SearchBlocksInputs:
    """A trained classifier, and images with labels: weights learn those for training, gates those for choices."""

    model: ImageClassifierArtifact
    data: ImageDatasetArtifact


def _forecast(config: SearchBlocksConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, [data] = inputs["model"][0], inputs["data"]
    refuse_other_data(model, [data])
    if data.get("num_classes") == 0:
        raise ValueError(f"{data.get('name', 'data')} has no classes to search by; accepted: images with labels")
    removable = model.get("removable_blocks")
    if removable is not None and config.num_removed > len(removable):
        raise ValueError(
            f"num_removed is {config.num_removed}, but {len(removable)} blocks of the model can go; accepted: up to as many"
        )
    num_forwards = 6.0 + config.voting.num_teachers * bool(config.voting.weight)
    flops = 2.0 * num_forwards * float(model.get("num_products") or 0) * config.batch_size * config.num_steps
    memory = 4.0 * (6.0 + config.voting.num_teachers) * float(model.get("num_parameters", 0))
    known = {"num_blocks": model["num_blocks"]} if "num_blocks" in model else {}
    return Forecast({**FACTS, **known}, num_flops=flops, peak_memory_bytes=memory)


@stage("search_blocks", version=1, forecast=_forecast)
def search_blocks(config: SearchBlocksConfig, inputs: SearchBlocksInputs, workdir: Path) -> ScanArtifact:
    """Score blocks by gates between each and handing on what it reads, as a scan for `prune`, metric architecture.

    Weights and gates learn in turns; both go behind the search: what is cut is the model that came. Tells the accuracy of the net with its
    gates, and with the blocks taken out instead. Raises ValueError for data without images to train or to choose on.
    """
    content, device = workdir / "content", pick_device()
    classifier = load_classifier(inputs.model.path, torch.float32, device)
    without_open_gates(classifier)
    images = _Images.of(inputs)
    supernet = Supernet(classifier).to(device).eval()
    _refuse_more_than_go(config, supernet)
    voting = config.voting
    rates = SearchRates(
        weight_rate=config.learning_rate,
        gate_rate=config.gate_rate,
        num_teachers=voting.num_teachers,
        every=voting.every,
        teacher_weight=voting.weight,
    )
    _searched(config, Search(supernet, rates), images, workdir / STATE)
    shares = supernet.shares()
    values = [shares.get(index, float("inf")) for index in range(len(image_blocks(classifier.model)))]
    _tell_gap(config, supernet, images, values)
    # of the model as it came: what the search passed by counts there
    lowest = write_block_scores(content, load_classifier(inputs.model.path), SEARCHED, values)
    metric(f"lowest_{SEARCHED}_of_one_block", lowest)
    return ScanArtifact.at(content, FACTS, num_blocks=len(values), num_tokens=len(images.learned))


class _Images:
    """The images of a search: those that weights learn, and those that gates do."""

    def __init__(self, learned: list[StoredPixels], validated: list[StoredPixels], labels: list[list[int]]) -> None:
        self.learned, self.validated = learned, validated
        self._labels = [torch.tensor(some) for some in labels]

    @staticmethod
    def of(inputs: SearchBlocksInputs) -> _Images:
        data = inputs.data
        reader, stored = PixelReader(inputs.model.path, inputs.model.facts.num_channels), ImageBytes(data)
        every = read_image_rows(data.path)
        part = "choose" if any(row.split == "choose" for row in every) else "heldout"
        parts = [[row for row in every if row.split == some] for some in ("train", part)]
        if not all(parts):
            raise ValueError(
                f"{data.facts.name or 'data'} has {len(parts[0])} training images and {len(parts[1])} for choices; accepted: some of both"
            )
        if part == "heldout":
            note(shared_rows_note(data.facts.name or "the data set", "move the gates"))
        read = [[reader.stored(data, row, stored) for row in rows] for rows in parts]
        return _Images(read[0], read[1], [[row.label for row in rows] for rows in parts])

    def drawn(self, step: int, seed: int, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return the images of a step with their labels, always the same: of training, and for choices."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pairs = []
        for pixels, labels in zip((self.learned, self.validated), self._labels, strict=True):
            rows = torch.randint(len(pixels), (size,), generator=generator)
            shown = torch.stack([pixels[row]() for row in rows.tolist()])
            pairs.append((shown.to(device), labels[rows].to(device)))
        return pairs

    @torch.no_grad()
    def accuracy(self, supernet: Supernet) -> float:
        """Return the share of the images for choices that a net is right on."""
        parts = [supernet(pixels).argmax(dim=1).cpu() for pixels in pixel_batches(self.validated, EVALUATED_AT_ONCE)]
        return float((torch.cat(parts) == self._labels[1]).float().mean())


def _searched(config: SearchBlocksConfig, search: Search, images: _Images, path: Path) -> None:
    """Search to the last step, from the file of an interrupted run where there is one."""
    device = search.supernet.gates.device
    if path.exists():
        search.restore(torch.load(path, map_location=device, weights_only=True))
        note(f"continuing at step {search.step} of {config.num_steps}")
    counter = bar("searching", config.num_steps, "steps", done=search.step)
    while search.step < config.num_steps:
        learned, validated = images.drawn(search.step, config.seed, config.batch_size, device)
        losses = search.advance(learned, validated)
        if not all(map(math.isfinite, losses.values())):
            raise ValueError(f"step {search.step}: a loss is no number; accepted: a lower learning_rate or gate_rate")
        for name, value in losses.items():
            emit(Metric(name, value, search.step))
        counter.advance()
        if search.step % config.checkpoint_every == 0 or search.step == config.num_steps:
            with whole_file(path) as temporary, temporary.open("wb") as stream:
                torch.save(search.state(), stream)
                stream.flush()
                os.fsync(stream.fileno())


def _refuse_more_than_go(config: SearchBlocksConfig, supernet: Supernet) -> None:
    """Raise ValueError where fewer blocks can go together than are to: one of each stage stays, which the plan does not know."""
    blocks = image_blocks(supernet.model)
    values = [0.0 if index in supernet.indices else float("inf") for index in range(len(blocks))]
    num_going = sum(value < float("inf") for value in that_can_go(blocks, values))
    if num_going < config.num_removed:
        raise ValueError(
            f"num_removed is {config.num_removed}, but {num_going} blocks can go together; accepted: up to as many"
        )


def _tell_gap(config: SearchBlocksConfig, supernet: Supernet, images: _Images, values: Sequence[float]) -> None:
    """Tell how much of the accuracy of the net with its gates is lost where they become a choice, with the weights of the search."""
    single = that_can_go(image_blocks(supernet.model), list(values))
    order = sorted((value, index) for index, value in enumerate(single) if value < float("inf"))
    removed = [index for _, index in order[: config.num_removed]]
    whole = images.accuracy(supernet)
    supernet.decide(removed)
    cut = images.accuracy(supernet)
    metric("supernet_accuracy", whole)
    metric("discretized_accuracy", cut)
    metric("discretization_gap", whole - cut)
    note(
        f"gates: {', '.join(f'block {index} {value:.3f}' for value, index in order)}; the net with them is right on {whole:.1%} of "
        f"{len(images.validated)} images for choices, without blocks {', '.join(map(str, removed))} on {cut:.1%}"
    )
