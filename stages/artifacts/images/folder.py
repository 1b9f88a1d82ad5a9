"""Read and write the folders of image classifiers. The whole classifier or a refusal, in the form that transformers reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attar.compressors.images.classifier import ImageClassifier, last_layer
from attar.compressors.images.layout import LAYOUTS, image_blocks
from attar.compressors.images.resolution import check_patches
from attar.compressors.measure.cost import num_parameters
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageClassifierArtifact
from attar.stages.artifacts.classifier.class_form import outputs_of
from attar.stages.artifacts.images.pixels import MODES, PROCESSOR, PixelReader
from attar.stages.artifacts.model.folder import quiet_transformers
from attar.stages.artifacts.model.load_report import dtype_of, one_line, read_reported, refuse_not_finite, refuse_report
from attar.stages.artifacts.model.safe_folder import read_object, refuse_unsafe
from attar.stages.artifacts.model.weight_files import stored_tensors

if TYPE_CHECKING:
    import transformers

# What goes where the weights go.
COMPANIONS = ("config.json", PROCESSOR)


def load_classifier(
    folder: Path, dtype: torch.dtype | str = "auto", device: torch.device | None = None
) -> ImageClassifier:
    """Load a safe folder of an image classifier in evaluation mode.

    Raises ValueError for an unsafe folder, another kind of model, and unless its weights are all there, finite, and its config's.
    """
    refuse_unsafe(folder)
    refuse_no_classifier(folder)
    quiet_transformers()
    model = _read(folder, dtype)
    refuse_not_finite(folder, model.state_dict())
    last_layer(model)  # refuses a head that is no matrix
    return ImageClassifier(model.to(device=device) if device is not None else model).eval()  # type: ignore[call-arg]


def random_weights(classifier: ImageClassifier, seed: int) -> ImageClassifier:
    """Return a classifier of the same shape whose weights are drawn with `seed`: it knows nothing."""
    from transformers import AutoModelForImageClassification  # there since the classifier is

    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageClassification.from_config(classifier.model.config, dtype=classifier.model.dtype)
    return ImageClassifier(model.to(classifier.device)).eval()


def refuse_no_classifier(folder: Path) -> None:
    """Raise ValueError unless a folder's config is that of an image classifier of a family that is taken."""
    config = read_object(folder / "config.json")
    family, architectures = config.get("model_type"), config.get("architectures") or [""]
    what = str(architectures[0] if isinstance(architectures, list) and architectures else family)
    if not isinstance(family, str) or family not in LAYOUTS or not what.endswith("ForImageClassification"):
        raise ValueError(
            f"{folder} is a {what or family}; as an image classifier are accepted: {', '.join(LAYOUTS)}, with a head of classes"
        )
    if "quantization_config" in config:
        raise ValueError(f"{folder} holds packed weights (quantization_config); accepted: a classifier in floats")
    if isinstance(named := config.get("id2label"), dict):
        outputs_of(folder, named)
    num_channels = config.get("num_channels", 3)
    if not isinstance(num_channels, int) or num_channels not in MODES:
        raise ValueError(f"{folder}: num_channels is {num_channels}; accepted: {', '.join(map(str, MODES))}")
    try:
        check_patches(config.get("image_size"), config.get("patch_size") if family == "vit" else None)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def save_classifier(classifier: ImageClassifier, folder: Path, source: Path) -> ImageClassifierArtifact:
    """Write a classifier as safetensors with the processor of `source`, and return the handle with its facts."""
    quiet_transformers()
    classifier.model.save_pretrained(folder, safe_serialization=True)
    if source != folder:
        shutil.copy2(source / PROCESSOR, folder / PROCESSOR)
    facts = classifier_facts(classifier, folder)
    return ImageClassifierArtifact.at(folder, facts, companion_bytes=companion_bytes(folder))


def companion_bytes(folder: Path) -> int:
    """Return the bytes of what lies beside the weights."""
    return sum((folder / name).stat().st_size for name in COMPANIONS if (folder / name).exists())


def class_names(model: transformers.PreTrainedModel) -> tuple[str, ...]:
    """Return the names of a classifier's classes in the order of its logits."""
    names: Any = model.config.id2label
    return tuple(str(names[index]) for index in range(len(names)))


def classifier_facts(classifier: ImageClassifier, folder: Path) -> Facts:
    """Return the facts of a loaded classifier whose processor lies in `folder`."""
    model, blocks = classifier.model, image_blocks(classifier.model)
    num_channels = int(model.config.num_channels)
    size = PixelReader(folder, num_channels).size
    return {
        "image_size": size,
        "num_channels": num_channels,
        "num_classes": len(class_names(model)),
        "num_blocks": len(blocks),
        "removable_blocks": tuple(index for index, block in enumerate(blocks) if block.can_go),
        "architecture": str(model.config.model_type),
        "num_parameters": num_parameters(model),
        "num_block_parameters": sum(p.numel() for block in blocks for p in block.module.parameters()),
        "num_products": num_products(classifier, (num_channels, *size)),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


@torch.no_grad()
def num_products(classifier: ImageClassifier, shape: tuple[int, ...]) -> int:
    """Return how many multiplications with weights an image takes: those of convolutions and matrices, as a forward pass shows them.

    Raises ValueError where the model does not run on images of this shape.
    """
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight: Any = module.weight
        counts.append(weight[0].numel() * output.numel())

    layers = [module for module in classifier.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        model = classifier.model
        classifier(torch.zeros(1, *shape, dtype=model.dtype, device=model.device))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        size = " x ".join(map(str, shape[1:]))
        raise ValueError(
            f"{type(classifier.model).__name__} does not run on images of {size}: {one_line(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


def folder_facts(folder: Path) -> Facts:
    """Return the facts of a folder from its config.json and the headers of its weights, without memory for them."""
    refuse_unsafe(folder)
    refuse_no_classifier(folder)
    quiet_transformers()
    skeleton = ImageClassifier(_read(folder, "auto", device_map="meta")).eval()
    return {**classifier_facts(skeleton, folder), "companion_bytes": companion_bytes(folder)}


def _read(folder: Path, dtype: torch.dtype | str, **options: Any) -> transformers.PreTrainedModel:
    stored_tensors(folder)  # first: whole files, of which there is one choice
    model, report = read_reported(folder, dtype_of(folder, dtype), "AutoModelForImageClassification", **options)
    refuse_report(folder, report)
    return model
