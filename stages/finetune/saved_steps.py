"""Files to go on from after a kill. Of several processes each has its own; those of one step belong together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from attar.registry.artifacts.files import whole_file

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class SavedSteps:
    """The checkpoint of one training in a folder. With several processes each has its own folder."""

    folder: Path
    accelerator: Accelerator

    def path(self, step: int) -> Path:
        """Return the file of a step. One process needs no other name for the next: its file is replaced whole."""
        return self.folder / (CHECKPOINT if self._is_alone else f"checkpoint-{step}.pt")

    def write(self, state: dict[str, Any], step: int) -> None:
        """Write the state of a step. The one before goes when every process has written."""
        with whole_file(self.path(step)) as temporary, temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if not self._is_alone:
            self.accelerator.wait_for_everyone()
            for path in self.folder.glob("checkpoint-*.pt"):
                if path != self.path(step):
                    path.unlink()

    def read(self) -> dict[str, Any] | None:
        """Return the state of the latest step that every process has; None where there is none."""
        if self._is_alone:
            path = self.path(0)
        else:
            steps = [int(path.stem.partition("-")[2]) for path in self.folder.glob("checkpoint-*.pt")]
            latest = torch.tensor([max(steps, default=-1)], device=self.accelerator.device)
            # nobody has lost an older one before all had the newer
            path = self.path(int(self.accelerator.gather(latest).min()))  # type: ignore[union-attr]
        # a worker that goes on with it may have no such device
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def agreed(self, value: T) -> T:
        """Return what the first process has: clocks, and last digits, may differ where all must do the same."""
        if self._is_alone:
            return value
        from accelerate.utils import broadcast_object_list  # a plan need not wait for it

        return broadcast_object_list([value])[0]

    @property
    def _is_alone(self) -> bool:
        return self.accelerator.num_processes == 1
