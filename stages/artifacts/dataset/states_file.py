"""What a model that never changes made of each example, in one file that is mapped into memory. A run that goes on finds it again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attar.registry.artifacts.files import reserve, write_synced
from attar.stages.runtime.progress import Bar, note


@dataclass(frozen=True)
class StatesFile:
    """States of many examples one after the other: 2 bytes x hidden size a token in bf16. Beside it lies what says where each is.

    `model_dtype`: of the model that they are from; another device may compute in another.
    """

    path: Path
    model_dtype: torch.dtype

    def read(self, num_examples: int) -> list[tuple[int, Tensor]] | None:
        """Return (index, states T D) of each example. None where no whole file of so many was written by such a model."""
        if not (self._contents.exists() and self.path.exists()):
            return None
        contents = json.loads(self._contents.read_text())
        if contents["model_dtype"] != str(self.model_dtype) or len(contents["places"]) != num_examples:
            return None
        dtype, num_tokens = getattr(torch, contents["dtype"]), sum(count for _, count in contents["places"])
        if self.path.stat().st_size != num_tokens * contents["width"] * dtype.itemsize:
            return None  # mapping would fill what is missing with zeros
        stored = self._mapped(num_tokens, contents["width"], dtype)
        states, offset = [], 0
        for index, count in contents["places"]:
            states.append((index, stored[offset : offset + count]))
            offset += count
        return states

    def write(
        self, examples_states: Iterator[tuple[int, Tensor]], num_tokens: int, counter: Bar
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, states T D) again, now from the file; `num_tokens` of all examples. It counts as whole once all are taken.

        Raises NoSpaceError before the first where the disk has no room for all.
        """
        self._contents.unlink(missing_ok=True)
        stored: Tensor | None = None
        offsets: list[tuple[int, int]] = []
        offset = 0
        for index, states in examples_states:
            if stored is None:
                num_bytes = num_tokens * states.shape[-1] * states.dtype.itemsize
                note(f"{num_bytes / 1e6:,.0f} MB on disk until the training is done: {self.path.name}")
                reserve(self.path, num_bytes)
                stored = self._mapped(num_tokens, states.shape[-1], states.dtype)
            view = stored[offset : offset + len(states)]
            view.copy_(states)
            offset += len(states)
            offsets.append((index, len(states)))
            counter.advance(len(states))
            yield index, view
        if stored is None:
            return
        with self.path.open("rb") as file:
            os.fsync(file.fileno())  # the contents must not outlive the states when the machine dies
        contents = {
            "model_dtype": str(self.model_dtype),
            "dtype": str(stored.dtype).removeprefix("torch."),
            "width": stored.shape[-1],
            "places": offsets,
        }
        write_synced(self._contents, json.dumps(contents))

    @property
    def _contents(self) -> Path:
        return self.path.with_suffix(".json")

    def _mapped(self, num_tokens: int, width: int, dtype: torch.dtype) -> Tensor:
        flat = torch.from_file(str(self.path), shared=True, size=num_tokens * width, dtype=dtype)
        return flat.view(num_tokens, width)
