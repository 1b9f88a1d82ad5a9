"""Parameters that a model's files hold otherwise. Transformers fuses the experts of a block as it loads them, and splits them as it saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.compressors.models.experts import EXPERT_MATRICES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"


class FusedFiles:
    """Which tensors of the files hold some parameters, by transformers' own conversion. One parameter is in memory at a time."""

    def __init__(self, skeleton: PreTrainedModel, parameters: Sequence[str], stored: Collection[str]) -> None:
        """Take those of the parameters of which the files, that hold tensors named `stored`, have all parts."""
        self._skeleton = skeleton
        known = dict(skeleton.named_parameters())
        shapes = {name: known[name].shape for name in parameters if name in known}
        files = {name: list(self.split(name, torch.empty(shape, device="meta"))) for name, shape in shapes.items()}
        self._files = {name: own for name, own in files.items() if all(file in stored for file in own)}
        # file tensor -> parameter
        self.owners = {file: name for name, files in self._files.items() for file in files}
        self._held: tuple[str, dict[str, Tensor]] = ("", {})

    def read(self, file: str, make: Callable[[str], Tensor]) -> Tensor:
        """Return a tensor as the files hold it, out of the parameter that `make` gives by name. It is nobody else's."""
        name = self.owners[file]
        if self._held[0] != name:
            self._held = (name, self.split(name, make(name)))
        return self._held[1][file].clone()

    def split(self, parameter: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return what the files hold of a parameter's tensor, by their names."""
        from transformers.core_model_loading import revert_weight_conversion  # a second that a plan need not wait for

        return revert_weight_conversion(self._skeleton, {parameter: tensor})


def expert_targets(adapter: Path, skeleton: PreTrainedModel) -> list[str]:
    """Return the full names of the fused parameters that an adapter's config names, each module's in its own order."""
    endings = json.loads((adapter / ADAPTER_CONFIG).read_text()).get("target_parameters") or []
    names = [name for name, _ in skeleton.named_parameters()]
    targets = [name for name in names if any(name == end or name.endswith(f".{end}") for end in endings)]
    strangers = [name for name in targets if name.rpartition(".")[2] not in EXPERT_MATRICES]
    if strangers:
        raise ValueError(f"{adapter.name}: it adapts {strangers[0]}, which is no matrix of experts and is not folded")
    return targets


def has_inputs_first(skeleton: PreTrainedModel, parameter: str) -> bool:
    """Return whether a fused parameter holds (expert, in, out), as gpt-oss does."""
    return bool(getattr(skeleton.get_submodule(parameter.rpartition(".")[0]), "is_transposed", False))
