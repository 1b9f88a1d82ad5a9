"""Read and write the folders of denoisers. The whole denoiser or a refusal, in the form that diffusers reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.diffusion.self_conditioning import PATH, Bottleneck, add_self_conditioning
from attar.compressors.measure.cost import num_parameters
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DenoiserArtifact
from attar.stages.artifacts.denoiser.nets import NETS, NetKind, net_of, sizes_of
from attar.stages.artifacts.denoiser.scheduler import process_of, scheduler_config, write_scheduler
from attar.stages.artifacts.model.load_report import one_line, refuse_not_finite
from attar.stages.artifacts.model.safe_folder import read_object, refuse_unsafe

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler"
# Of a net's config: that it has the path. Not the path's own name, which a key of the config would hide from whoever asks the net for it.
ASKS_FOR_PATH = "self_conditioned"


@dataclass(frozen=True)
class Denoiser:
    """A net with its noise process, and what the folder says of both."""

    net: Any  # one of diffusers, whose config is no member that a module declares
    process: NoiseProcess
    kind: NetKind
    scheduler: dict[str, Any]

    @property
    def num_labels(self) -> int:
        """Classes that it can be told, the one that means any counted, where it has that."""
        return self.kind.num_labels(self.net.config)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        num_channels, side = sizes_of(self.net.config)
        return num_channels, side, side

    @property
    def is_self_conditioned(self) -> bool:
        """Whether what the middle makes of an image conditions the blocks behind it."""
        return hasattr(self.net, PATH)

    @property
    def bottleneck(self) -> Bottleneck:
        """The middle of the net, and what is conditioned behind it."""
        return self.kind.bottleneck(self.net)

    def with_self_conditioning(self) -> Denoiser:
        """Put a path that adds nothing yet into the net. Raises ValueError for a net that is too short for it."""
        add_self_conditioning(self.net, self.bottleneck)
        self.net.register_to_config(**{ASKS_FOR_PATH: True})  # diffusers keeps what it does not know
        return self


def load_denoiser(folder: Path, device: torch.device | None = None) -> Denoiser:
    """Load a safe denoiser folder in evaluation mode, in float32.

    Raises ValueError for an unsafe folder, another kind of model, and unless its weights are all there, finite, and its config's.
    """
    kind = refuse_no_denoiser(folder)
    config = scheduler_config(folder / SCHEDULER)
    process = process_of(config)
    loaded = net_of(kind)
    try:
        net, report = loaded.from_pretrained(
            folder / kind.folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: diffusers cannot load it: {one_line(error)}") from error
    denoiser = Denoiser(net, process, kind, config)
    if is_self_conditioned(folder / kind.folder):
        report["unexpected_keys"] = _read_path(denoiser.with_self_conditioning(), folder / kind.folder, report)
    for problem, names in report.items():
        if names:
            raise ValueError(
                f"{folder}: {problem.replace('_', ' ')} {sorted(map(str, names))[0]}; accepted: all of the config's weights"
            )
    refuse_not_finite(folder, net.state_dict())
    return replace(denoiser, net=kind.prepared(net.to(device=device)).eval())


def is_self_conditioned(folder: Path) -> bool:
    """Say whether the config of a net's folder asks for the path. Raises ValueError for what is neither yes nor no."""
    given = read_object(folder / "config.json").get(ASKS_FOR_PATH, False)
    if not isinstance(given, bool):
        raise ValueError(f"{folder}: config.json has {ASKS_FOR_PATH} {str(given)[:40]!r}; accepted: true or false")
    return given


def _read_path(denoiser: Denoiser, folder: Path, report: Mapping[str, list[str]]) -> list[str]:
    """Read the weights of the path, which diffusers does not know. Return those that are none of its. Raises ValueError where it lacks one."""
    path, begin = denoiser.net.get_submodule(PATH), f"{PATH}."
    stored = {name: value for name, value in load_file(folder / WEIGHTS).items() if name.startswith(begin)}
    try:
        path.load_state_dict({name.removeprefix(begin): value for name, value in stored.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder}: {one_line(error)}; accepted: all of the config's weights") from error
    return [name for name in report["unexpected_keys"] if name not in stored]


def refuse_no_denoiser(folder: Path) -> NetKind:
    """Return which net a folder holds. Raises ValueError for an unsafe folder, and one that holds none that is taken."""
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"{folder} is no diffusers folder: it has no {INDEX}; accepted: one with {' or '.join(kind.folder for kind in NETS)}"
        )
    index = read_object(folder / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{folder}: {INDEX} names a pipeline of its own code ({index.get('_class_name')}); refused")
    kinds = [kind for kind in NETS if (folder / kind.folder / "config.json").is_file()]
    if len(kinds) != 1:
        raise ValueError(
            f"{folder} holds {len(kinds)} nets; accepted: one of {', '.join(f'{kind.folder}/ ({kind.class_name})' for kind in NETS)}"
        )
    kind = kinds[0]
    others = {name: part for name, part in index.items() if isinstance(part, list) and any(part)}
    if beside := [name for name in others if name not in (kind.folder, "scheduler")]:
        raise ValueError(
            f"{folder}: {INDEX} names a {beside[0][:40]} beside {kind.folder} and scheduler; accepted: a denoiser of pixels, told a class"
        )
    refuse_unsafe(folder / kind.folder)
    kind.check(folder, read_object(folder / kind.folder / "config.json"))
    if not (folder / kind.folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no weights: {kind.folder}/{WEIGHTS} is not there")
    return kind


def save_denoiser(denoiser: Denoiser, folder: Path) -> DenoiserArtifact:
    """Write a denoiser as diffusers lays it out, and return the handle with its facts."""
    kind = denoiser.kind
    denoiser.net.save_pretrained(folder / kind.folder, safe_serialization=True)
    write_scheduler(denoiser.scheduler, folder / SCHEDULER)
    (folder / INDEX).write_text(json.dumps(kind.index(denoiser.scheduler["_class_name"]), indent=2) + "\n")
    return DenoiserArtifact.at(folder, denoiser_facts(denoiser), companion_bytes=companion_bytes(folder))


def companion_bytes(folder: Path) -> int:
    """Return the bytes of what lies beside the weights."""
    return sum(path.stat().st_size for path in folder.rglob("*.json"))


def denoiser_facts(denoiser: Denoiser) -> Facts:
    """Return the facts of a loaded denoiser."""
    num_channels, side, _ = denoiser.shape
    return {
        "sample_size": side,
        "num_labels": denoiser.num_labels,
        "prediction": denoiser.process.prediction,
        "num_image_channels": num_channels,
        "num_timesteps": denoiser.process.num_timesteps,
        "architecture": denoiser.kind.name,
        "num_parameters": num_parameters(denoiser.net),
        "num_products": num_products(denoiser),
        "dtype": "float32",
        **({PATH: True} if denoiser.is_self_conditioned else {}),
    }


@torch.no_grad()
def num_products(denoiser: Denoiser) -> int:
    """Return the multiplications with weights that a forward of one image takes: those of convolutions and matrices."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight: Any = module.weight
        counts.append(weight[0].numel() * output.numel())

    layers = [module for module in denoiser.net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    device = next(denoiser.net.parameters()).device
    number = torch.zeros(1, dtype=torch.long, device=device)
    try:
        denoiser.net(torch.zeros(1, *denoiser.shape, device=device), number, class_labels=number)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


def folder_facts(folder: Path) -> Facts:
    """Return the facts of a denoiser folder from its configs, without memory for its weights."""
    kind = refuse_no_denoiser(folder)
    config = scheduler_config(folder / SCHEDULER)
    loaded = net_of(kind)
    try:
        with torch.device("meta"):
            net = loaded.from_config(read_object(folder / kind.folder / "config.json"))
            denoiser = Denoiser(net, process_of(config), kind, config)
            if is_self_conditioned(folder / kind.folder):
                denoiser.with_self_conditioning()
        facts = denoiser_facts(denoiser)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: diffusers cannot build it: {one_line(error)}") from error
    return {**facts, "companion_bytes": companion_bytes(folder)}
