"""A router over students: total and disjoint, by the class alone."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.diffusion.router import Partition


def test_a_router_is_total_and_disjoint() -> None:
    partition = Partition.of([[2, 0], [1], [3, 4]], 5)
    owners = partition.owners(torch.tensor([0, 1, 2, 3, 4, 4, 0]))
    assert owners.tolist() == [0, 1, 0, 2, 2, 2, 0]
    for student, part in enumerate(partition.parts):
        own = [label for label in range(5) if int(partition.owners(torch.tensor([label]))) == student]
        assert own == sorted(part), "what a student draws is what it owns, and nothing else"


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([[0, 1], [3]], "class 2 has 0 students; accepted: one for each of 0 to 3"),
        ([[0, 1, 2], [2, 3]], "class 2 has 2 students"),
        ([[0, 1, 2, 3, 3]], "class 3 has 2 students"),
        ([[0, 1], [2, 3, 4]], "class 4 is none of the data's; accepted: 0 to 3"),
        ([[-1, 0, 1], [2, 3]], "class -1 is none of the data's"),
        ([[0, 1, 2, 3], []], "a student has no class; accepted: one or more for each"),
    ],
)
def test_a_partition_that_leaves_out_or_shares_a_class_is_refused(parts: list[list[int]], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Partition.of(parts, 4)
