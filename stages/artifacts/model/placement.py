"""How the models of a stage are held. Whole, or one decoder block at a time from their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import torch

from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.paged import Pages, load_paged
from attar.stages.artifacts.model.tensor_files import tensor_infos
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

InMemory = Literal["auto", "model", "block"]
# Of what is free: a stage's states, its libraries and whoever else is there need the rest.
MAX_FREE_FRACTION = 0.8
# What stays in memory of a model by blocks that is asked short texts again and again, as a proof does: this share of it in float32 and
# half a gigabyte. At most half of what is free: the rest holds the files' pages.
ROOM_FRACTION, ROOM_BYTES = 0.35, 5e8
MAX_ROOM_FREE_FRACTION = 0.5


@dataclass(frozen=True)
class Placement:
    """Loads a stage's models alike. `scratch` takes the changed blocks of paged ones."""

    device: torch.device
    is_paged: bool
    scratch: Path
    room_bytes: float = 0.0

    @staticmethod
    def chosen(in_memory: InMemory, folder: Path, num_copies: int, device: torch.device, scratch: Path) -> Placement:
        """Return the placement that a config asks for. `auto`: by blocks where that many copies of the model, in float32, do not fit."""
        num_bytes = 4.0 * sum(torch.Size(info.shape).numel() for info in tensor_infos(folder).values())
        needed, free = num_copies * num_bytes, _free_bytes(device)
        is_paged = in_memory == "block" or (in_memory == "auto" and needed > MAX_FREE_FRACTION * free)
        if is_paged:
            why = "asked for" if in_memory == "block" else f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
            note(f"one block at a time in memory ({why})")
        room_bytes = min(ROOM_FRACTION * num_bytes + ROOM_BYTES, MAX_ROOM_FREE_FRACTION * free)
        return Placement(device, is_paged, scratch, room_bytes)

    def load(
        self, folder: Path, dtype: torch.dtype | str, name: str = "model", *, keeps_blocks: bool = False
    ) -> PreTrainedModel:
        """Load a folder. `name` tells apart the changes of the models that a stage holds at once.

        `keeps_blocks`: what blocks there is room for stay in memory. For one model at a time, which is asked short texts alone.
        """
        pages = self.pages(name, keeps_blocks=keeps_blocks)
        return (
            load_model(folder, dtype, self.device) if pages is None else load_paged(folder, dtype, self.device, pages)
        )

    def pages(self, name: str, *, keeps_blocks: bool = False) -> Pages | None:
        """Return how the blocks of a paged model are kept; None where models are whole."""
        return Pages(self.scratch / name, self.room_bytes if keeps_blocks else 0.0) if self.is_paged else None


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)
