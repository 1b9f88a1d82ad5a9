"""Route images to denoisers that share the classes out between them. An image's class alone says which of them draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """The classes of each of several students: each class is one student's, and one alone's. https://arxiv.org/abs/2410.23274"""

    parts: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(parts: Sequence[Sequence[int]], num_classes: int) -> Partition:
        """Return the partition of classes 0 to `num_classes` - 1. Raises ValueError for one that is not total and disjoint."""
        owned = [label for part in parts for label in part]
        for label in range(num_classes):
            if owned.count(label) != 1:
                raise ValueError(
                    f"class {label} has {owned.count(label)} students; accepted: one for each of 0 to {num_classes - 1}"
                )
        if not all(parts):
            raise ValueError("a student has no class; accepted: one or more for each")
        if beyond := [label for label in owned if not 0 <= label < num_classes]:
            raise ValueError(f"class {beyond[0]} is none of the data's; accepted: 0 to {num_classes - 1}")
        return Partition(tuple(tuple(part) for part in parts))

    def owners(self, classes: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        """Return the number of the student that draws each image."""
        table = torch.empty(sum(map(len, self.parts)), dtype=torch.long)
        for student, part in enumerate(self.parts):
            table[list(part)] = student
        return table.to(classes.device)[classes]
