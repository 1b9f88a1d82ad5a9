"""A data set of images. One file of encoded bytes, and a line an image: where it lies there, its class, part and digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.kinds.classifier_facts import ImageDatasetFacts
from attar.stages.artifacts.dataset.rows import Split

ROWS, BYTES, CLASSES = "images.jsonl", "images.bin", "classes.json"


@dataclass(frozen=True)
class ImageRow:
    """An image by where its encoded bytes lie in `images.bin`, with its class."""

    id: str
    label: int
    start: int
    size: int
    sha256: str
    split: Split = "train"

    def with_changes(self, **changes: Any) -> ImageRow:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)


def read_image_rows(folder: Path) -> list[ImageRow]:
    """Read the rows of a data set of images."""
    with (folder / ROWS).open() as stream:
        return [ImageRow(**json.loads(line)) for line in stream]


def write_image_rows(folder: Path, rows: Iterable[ImageRow], classes: Sequence[str]) -> None:
    """Write the rows, and the names of the classes in the order of their labels."""
    with (folder / ROWS).open("w") as stream:
        for row in rows:
            stream.write(json.dumps(asdict(row)) + "\n")
    (folder / CLASSES).write_text(json.dumps(list(classes), ensure_ascii=False))


def read_classes(folder: Path) -> tuple[str, ...]:
    """Read the names of the classes."""
    return tuple(json.loads((folder / CLASSES).read_text()))


def write_images(
    folder: Path, rows: Sequence[ImageRow], classes: Sequence[str], form: ImageDatasetFacts
) -> ImageDatasetArtifact:
    """Write the rows of images whose bytes lie in the folder, and return the handle. Its facts: `form`, and how many rows are in which part."""
    write_image_rows(folder, rows, classes)
    counts = {f"num_{part}": sum(row.split == part for row in rows) for part in ("heldout", "choose")}
    return ImageDatasetArtifact.at(folder, {**form, "num_rows": len(rows), **counts})


class ImageBytes:
    """The encoded bytes of a data set's images, read one at a time."""

    def __init__(self, data: ImageDatasetArtifact) -> None:
        self._path = data.path / BYTES

    def __call__(self, row: ImageRow) -> bytes:
        """Return the bytes of one image. Raises ValueError where they are not those that were stored."""
        with self._path.open("rb") as stream:
            stream.seek(row.start)
            content = stream.read(row.size)
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise ValueError(f"{self._path}: image {row.id} is not the one that was stored")
        return content


def copied_bytes(data: ImageDatasetArtifact, rows: Sequence[ImageRow], folder: Path) -> list[ImageRow]:
    """Copy the bytes of some images of a data set into a folder. Return their rows, which say where the bytes lie there."""
    stored, start, moved = ImageBytes(data), 0, []
    with (folder / BYTES).open("wb") as stream:
        for row in rows:
            stream.write(stored(row))
            moved.append(row.with_changes(start=start))
            start += row.size
    return moved


def part_rows(rows: Sequence[ImageRow], part: Split) -> list[ImageRow]:
    """Return the rows of a part, else of the other that is not learned, else all: what an evaluation reads."""
    for split in (part, "heldout" if part == "choose" else "choose"):
        if some := [row for row in rows if row.split == split]:
            return some
    return list(rows)
