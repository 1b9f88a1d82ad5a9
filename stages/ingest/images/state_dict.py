"""EfficientNet-lite state dicts (`.pth`) as EfficientNets of transformers. Every number under another name, none made up but gates that are 1.

transformers' EfficientNet always has squeeze-and-excite gates, which the lite nets lack: they come in as gates that multiply by 1 exactly
(zero matrices, a shift whose sigmoid is 1 in float32), which training, timing and graphs pass by. A transformers folder and not timm's own
name for the net, since a config of transformers can say what a cut leaves, and timm's names cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.stages.artifacts.images.pixels import PROCESSOR
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.weight_files import named

if TYPE_CHECKING:
    import transformers

# Whose sigmoid is 1 in float32.
OPEN = 32.0
# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no gates, ReLU6, and stem and top of one width in all.
CONFIG = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "image_size": 224,
    "hidden_dim": 1280,
    "hidden_act": "relu6",
    "squeeze_expansion_ratio": 0.0,
    # transformers hands the number to torch, where it is the share of the newest batch
    "batch_norm_momentum": 0.01,
    "batch_norm_eps": 0.001,
    "dropout_rate": 0.2,
    "drop_connect_rate": 0.0,
}
# What the published nets were trained on: (x - 127) / 128, a central crop of an image at bicubic size.
READING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
    "do_convert_rgb": True,
}
# Beginnings of names there, and here.
RENAMES = {
    r"^_conv_stem\.": "efficientnet.embeddings.convolution.",
    r"^_bn0\.": "efficientnet.embeddings.batchnorm.",
    r"^_conv_head\.": "efficientnet.encoder.top_conv.",
    r"^_bn1\.": "efficientnet.encoder.top_bn.",
    r"^_fc\.": "classifier.",
    r"^_blocks\.(\d+)\._expand_conv\.": r"efficientnet.encoder.blocks.\1.expansion.expand_conv.",
    r"^_blocks\.(\d+)\._bn0\.": r"efficientnet.encoder.blocks.\1.expansion.expand_bn.",
    r"^_blocks\.(\d+)\._depthwise_conv\.": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_conv.",
    r"^_blocks\.(\d+)\._bn1\.": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_norm.",
    r"^_blocks\.(\d+)\._project_conv\.": r"efficientnet.encoder.blocks.\1.projection.project_conv.",
    r"^_blocks\.(\d+)\._bn2\.": r"efficientnet.encoder.blocks.\1.projection.project_bn.",
}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.pth` file, read without running anything of it. Raises ValueError for a file that holds more than tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path.name} is no plain state dict: {one_line(error)}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path.name} holds a {type(state).__name__}; accepted: a dictionary of tensors")
    return dict(state)


def lite_classifier(state: Mapping[str, Tensor]) -> transformers.PreTrainedModel:
    """Return the EfficientNet-lite0 of a state dict. Raises ValueError for tensors that are missing, left over or of another shape."""
    from transformers import (
        EfficientNetConfig,
        EfficientNetForImageClassification,
    )  # a second that a plan need not wait for

    fc = state.get("_fc.weight")
    if fc is None:
        raise ValueError(f"the state dict has no _fc.weight; it has {named(sorted(state)[:3], 'tensors')}")
    model = EfficientNetForImageClassification(EfficientNetConfig.from_dict({**CONFIG, "num_labels": len(fc)})).eval()
    renamed = {_renamed(name): value for name, value in state.items()}
    gates = {name for name, _ in model.named_parameters() if ".squeeze_excite." in name}
    wanted = model.state_dict()
    for what, names in (
        ("lacks", sorted(wanted.keys() - renamed.keys() - gates)),
        ("holds too", sorted(renamed.keys() - wanted.keys())),
        (
            "has in another shape",
            sorted(n for n in renamed.keys() & wanted.keys() if renamed[n].shape != wanted[n].shape),
        ),
    ):
        if names:
            raise ValueError(f"the state dict is no EfficientNet-lite0: it {what} {named(names, 'tensors')}")
    model.load_state_dict(renamed, strict=False)
    open_gates(model)
    return model


@torch.no_grad()
def open_gates(model: nn.Module) -> None:
    """Let every squeeze-and-excite gate multiply by 1, whatever it reads."""
    for name, parameter in model.named_parameters():
        if ".squeeze_excite." in name:
            parameter.fill_(OPEN if name.endswith("expand.bias") else 0.0)


def write_reading(folder: Path, reading: Mapping[str, Any] = READING) -> None:
    """Write how images are read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROCESSOR).write_text(json.dumps(dict(reading), indent=2) + "\n")


def _renamed(name: str) -> str:
    for pattern, new in RENAMES.items():
        name, count = re.subn(pattern, new, name)
        if count:
            return name
    return name
