"""Draw from several students as from one. They share the classes out between them, and each image is its class's student's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attar.compressors.diffusion.router import Partition
from attar.registry.artifacts.facts import Facts
from attar.stages.compare.sample.drawing import Drawing


class RoutedDrawing:
    """Students behind one call; an image goes through its own alone."""

    def __init__(self, drawings: Sequence[Drawing], routes: Sequence[Sequence[int]]) -> None:
        self._drawings, self.num_classes, self.shape = drawings, drawings[0].num_classes, drawings[0].shape
        self._partition = Partition.of(routes, self.num_classes)
        self.num_forwards = 0

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        images, owners, counts = torch.empty_like(noise), self._partition.owners(labels), [0]
        for student, drawing in enumerate(self._drawings):
            own, before = owners == student, drawing.num_forwards
            if bool(own.any()):
                images[own] = drawing(noise[own], labels[own])
            counts.append(drawing.num_forwards - before)
        self.num_forwards += max(counts)  # each image took those of its own student
        return images


def routed(drawings: Sequence[Drawing], routes: Sequence[Sequence[int]]) -> Drawing:
    """Return students as one drawing; a single one as it is."""
    return RoutedDrawing(drawings, routes) if len(drawings) > 1 else drawings[0]


def check_routes(routes: Sequence[Sequence[int]], model: Facts, others: Sequence[Facts], data: Facts) -> None:
    """Raise ValueError for classes that are not shared out to the students, and students of other images."""
    if len(routes) != (1 + len(others) if others else 0):
        accepted = (
            f"{1 + len(others)} lists, of the model and each of `others`"
            if others
            else "none without the input `others`"
        )
        raise ValueError(f"routes has {len(routes)} lists of classes; accepted: {accepted}")
    for name in ("sample_size", "num_image_channels"):
        for other in others:
            if name in other and name in model and other[name] != model[name]:
                raise ValueError(f"others: {name} is {other[name]}, the model's {model[name]}; accepted: the same")
    if routes and data.get("num_classes"):
        try:
            Partition.of(routes, int(data["num_classes"]))
        except ValueError as error:
            raise ValueError(f"routes: {error}") from error
