"""Random image classifiers of every supported family, small enough to build in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.images.layout import LAYOUTS
from attar.stages.artifacts.images.pixels import MODES
from attar.stages.ingest.images.state_dict import write_reading

if TYPE_CHECKING:
    import transformers

SIZES = {"num_blocks": 4, "hidden_size": 16, "image_size": 16, "num_channels": 3, "num_classes": 10, "seed": 0}
# Of a vit's attention.
NUM_HEADS = 2


def random_classifier(family: str, **given: int) -> transformers.PreTrainedModel:
    """Return a randomly initialised classifier of a known family."""
    from transformers import AutoConfig, AutoModelForImageClassification  # a second that a plan need not wait for

    check_sizes(family, given)
    sizes = {**SIZES, **given}
    options = _options(family, sizes["num_blocks"], sizes["hidden_size"], sizes["image_size"])
    config = AutoConfig.for_model(
        family, num_channels=sizes["num_channels"], num_labels=sizes["num_classes"], **options
    )
    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sizes["seed"])
        model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return model.eval()


def check_sizes(family: str, given: Mapping[str, int]) -> None:
    """Raise ValueError for a family that is not known, and for sizes that make no net of it."""
    if family not in LAYOUTS:
        raise ValueError(f"source: random image classifier {family!r} is unknown; accepted: {', '.join(LAYOUTS)}")
    sizes = {**SIZES, **given}
    # two stages, each of a block at least
    least = dict.fromkeys(SIZES, 1) | {"seed": 0, "num_classes": 2, "num_blocks": 1 if family == "vit" else 2}
    for name, value in sizes.items():
        if value < least[name]:
            raise ValueError(f"source: {name} is {value}; accepted: {least[name]} or more")
    if sizes["num_channels"] not in MODES:
        raise ValueError(f"source: num_channels is {sizes['num_channels']}; accepted: {', '.join(map(str, MODES))}")
    if family == "vit":
        patch = vit_patch(sizes["image_size"])
        if sizes["image_size"] % patch or sizes["hidden_size"] % NUM_HEADS:
            raise ValueError(
                f"source: image_size is {sizes['image_size']} and hidden_size {sizes['hidden_size']}; accepted for a vit: a multiple of {patch}, "
                f"the side of its patches, and of {NUM_HEADS}, its heads"
            )


def vit_patch(image_size: int) -> int:
    """Return the side of a patch: four of them, or a few more, make the side of an image."""
    return max(1, image_size // 4)


def random_patch(family: str, **given: int) -> int:
    """Return the side of a random classifier's patches; 1 for a family that has none."""
    sizes = {**SIZES, **given}
    options = _options(family, sizes["num_blocks"], sizes["hidden_size"], sizes["image_size"])
    return int(options.get("patch_size", 1))


def write_random_reading(folder: Path, **given: int) -> None:
    """Write how a random classifier reads images: at its size, in numbers from -1 to 1."""
    sizes = {**SIZES, **given}
    half, size = [0.5] * sizes["num_channels"], sizes["image_size"]
    reading = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
    write_reading(folder, reading)


def _options(family: str, num_blocks: int, width: int, image_size: int) -> dict[str, Any]:
    """Return the sizes in a family's own words: two stages of half the blocks, the second twice as wide."""
    depths = [num_blocks - num_blocks // 2, num_blocks // 2]
    widths = [width, 2 * width]
    if family == "vit":
        patch = vit_patch(image_size)
        sizes = {"hidden_size": width, "num_hidden_layers": num_blocks, "num_attention_heads": NUM_HEADS}
        return {
            **sizes,
            "initializer_range": 0.15,
            "intermediate_size": 2 * width,
            "image_size": image_size,
            "patch_size": patch,
        }
    if family == "efficientnet":
        return {
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "depth_divisor": 2,
            "image_size": image_size,
            "in_channels": [32, width],
            "out_channels": widths,
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "num_block_repeats": depths,
            "expand_ratios": [1, 4],
            "hidden_dim": 1280,
            "batch_norm_momentum": 0.1,
            "drop_connect_rate": 0.0,
            # wide, so that blocks do something measurable: of the family's own 0.02 nothing is left after a few of them
            "initializer_range": 0.3,
        }
    if family in ("resnet", "regnet"):
        own = {"layer_type": "basic"} if family == "resnet" else {"layer_type": "x", "groups_width": width}
        return {**own, "embedding_size": width, "hidden_sizes": widths, "depths": depths}
    # ConvNeXt: the scale that blocks begin with would leave them silent for a thousand steps
    scale = {"layer_scale_init_value": 0.1} if family == "convnext" else {}
    return {
        **scale,
        "num_stages": 2,
        "hidden_sizes": widths,
        "depths": depths,
        "patch_size": 2,
        "image_size": image_size,
    }
