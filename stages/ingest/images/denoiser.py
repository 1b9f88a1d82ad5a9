"""A denoiser as it comes in: from a diffusers folder, or random, small enough for a recipe to train."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from attar.compressors.diffusion.self_conditioning import PATH
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, DenoiserArtifact
from attar.stages.artifacts.denoiser.folder import (
    Denoiser,
    denoiser_facts,
    folder_facts,
    load_denoiser,
    save_denoiser,
)
from attar.stages.artifacts.denoiser.nets import DIT, UNET, NetKind, net_of
from attar.stages.artifacts.denoiser.proof import probe_predictions, prove_denoiser
from attar.stages.artifacts.denoiser.scheduler import DEFAULT, full_config, process_of
from attar.stages.contract import StageConfig
from attar.stages.ingest.source_line import ModelSource, random_options, source_folder
from attar.stages.runtime.progress import note

# What a `random:` denoiser can be told, with the default of each.
OPTIONS = {"sample_size": 14, "num_channels": 1, "num_classes": 10, "width": 32, "num_blocks": 1, "seed": 0}
KINDS = {kind.name: kind for kind in (UNET, DIT)}
FOLDERS = ("folder", "models")
FORM = "random:unet?sample_size=14&num_channels=1&num_classes=10&width=32&seed=0"


class ImageDenoiser(StageConfig):
    """A net that makes images of noise, told a class."""

    kind: Literal["denoiser"] = "denoiser"
    """A net that makes images of noise, told a class; a folder of diffusers."""

    self_conditioning: bool = False
    """true: what the net's middle makes of an image conditions the blocks behind it, by a matrix that is zero at the start, to be trained
    (https://arxiv.org/abs/2505.10999). false: as the source has it."""

    artifact: ClassVar[type[Artifact[Any]]] = DenoiserArtifact


def check_denoiser_source(
    source: ModelSource, config: ImageDenoiser, strip_from_names: Sequence[str], expect: Facts
) -> None:
    """Raise ValueError for a source that no denoiser comes from, and sizes that its net cannot work with."""
    if source.scheme not in (*FOLDERS, "random") or (source.scheme == "random" and source.parts["family"] not in KINDS):
        raise ValueError(
            f"source is {source.scheme}:{source.rest}, but model.kind is 'denoiser'; accepted: folder:PATH, models:/NAME@ALIAS, {FORM}, "
            "or random:dit"
        )
    if strip_from_names:
        raise ValueError("strip_from_names is for causal models; accepted with model.kind 'denoiser': none")
    if source.scheme == "models" and "sample_size" not in expect:
        raise ValueError(
            "expect.sample_size is not given, by which later nodes know a denoiser before it is fetched; accepted: its side in pixels"
        )
    if source.scheme == "random":
        options = _options(source)
        kind = KINDS[source.parts["family"]]
        kind.check(Path(f"random:{kind.name}"), {**_net_config(kind, options), "_class_name": kind.class_name})
        if config.self_conditioning and kind.name == DIT.name and options["num_blocks"] < 2:
            raise ValueError(
                f"source random:{source.rest}: num_blocks is {options['num_blocks']}, and model.self_conditioning is from a block to those "
                "behind it; accepted: 2 or more"
            )


def denoiser_forecast(source: ModelSource, config: ImageDenoiser) -> Facts:
    """Return the facts that can be told before fetching."""
    added = {PATH: True} if config.self_conditioning else {}
    if source.scheme == "folder":
        return {**folder_facts(source.path), **added}
    if source.scheme != "random":
        return added
    if find_spec("diffusers") is None:  # a plan is made where it is not installed too, without the net's sizes
        return {**_form(source), **added}
    with torch.device("meta"):
        return denoiser_facts(_conditioned(random_denoiser(source), config))


def ingest_denoiser(
    source: ModelSource, config: ImageDenoiser, sha256: str, scratch: Path, content: Path
) -> DenoiserArtifact:
    """Write the denoiser of a source as diffusers lays it out, and prove it. Raises ValueError as `load_denoiser` does."""
    folder = source_folder(source, sha256, scratch)
    denoiser = _conditioned(random_denoiser(source) if folder is None else load_denoiser(folder), config)
    expected = probe_predictions(denoiser, "ingest_model")
    artifact = save_denoiser(denoiser, content)
    prove_denoiser(content, expected, "ingest_model")
    side, labels = artifact.facts.sample_size, artifact.facts.num_labels
    note(f"a denoiser of {side} x {side} images, told {labels} classes, that predicts {artifact.facts.prediction}")
    if denoiser.is_self_conditioned:
        note(
            "self-conditioned: diffusers itself reads the folder without that path, with a warning; Attar and the graph have it"
        )
    return artifact


def _conditioned(denoiser: Denoiser, config: ImageDenoiser) -> Denoiser:
    """Return a denoiser with the path that a config asks for; one that has it already keeps its own."""
    wants = config.self_conditioning and not denoiser.is_self_conditioned
    return denoiser.with_self_conditioning() if wants else denoiser


def random_denoiser(source: ModelSource) -> Denoiser:
    """Return a denoiser with random weights. Its last class means any: what guidance begins from."""
    kind, options = KINDS[source.parts["family"]], _options(source)
    scheduler = full_config(dict(DEFAULT))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options["seed"])
        net = net_of(kind).from_config(_net_config(kind, options))
    return Denoiser(kind.prepared(net).eval(), process_of(scheduler), kind, scheduler)


def _form(source: ModelSource) -> Facts:
    """Return what a random denoiser's options alone say of it."""
    options, names = _options(source), ("sample_size", "num_timesteps", "prediction")
    values = (options["sample_size"], DEFAULT["num_train_timesteps"], DEFAULT["prediction_type"])
    others = {"num_labels": options["num_classes"] + 1, "num_image_channels": options["num_channels"]}
    return {**dict(zip(names, values, strict=True)), **others}


def _options(source: ModelSource) -> dict[str, int]:
    options = {**OPTIONS, **random_options(source, OPTIONS)}
    if options["width"] % 8:
        raise ValueError(f"source random:{source.rest}: width is {options['width']}; accepted: a multiple of 8")
    return options


def _net_config(kind: NetKind, options: dict[str, int]) -> dict[str, Any]:
    width, num_channels = options["width"], options["num_channels"]
    shared = {"sample_size": options["sample_size"], "in_channels": num_channels, "out_channels": num_channels}
    if kind.name == DIT.name:
        return {
            **shared,
            "num_attention_heads": 4,
            "attention_head_dim": max(2, width // 4),
            "num_layers": options["num_blocks"],
            "patch_size": 2,
            "num_embeds_ada_norm": options["num_classes"],
        }
    return {
        **shared,
        "block_out_channels": (width, 2 * width),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": options["num_blocks"],
        "num_class_embeds": options["num_classes"] + 1,
        "norm_num_groups": 8,
        "attention_head_dim": 8,
    }
