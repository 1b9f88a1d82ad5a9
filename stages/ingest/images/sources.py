"""Read images with their labels from Parquet, npz and scikit-learn's digits. Each says where it stands; nothing of a file is run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.compressors.distill.losses.classes import UNLABELLED
from attar.registry.artifacts.confinement import confined
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_json
from attar.stages.ingest.records.record_sources import read_parquet

FORMS = {"parquet": "parquet:PATH.parquet", "npz": "npz:PATH.npz", "digits": "digits:"}
# Sources that are a file here.
LOCAL = ("parquet", "npz")
# Of scikit-learn's digits, whose pixels are 0 to 16.
BRIGHTNESS = 15


@dataclass(frozen=True)
class SourceImage:
    """The encoded bytes of an image, and the number of its class; `UNLABELLED` where nobody says it."""

    content: bytes
    label: int


def read_images(source: str, path: Path, image: str, label: str) -> Iterator[tuple[str, SourceImage]]:
    """Yield (where it stands, the image) of a source. Raises ValueError, naming the row, for what is no image or no label.

    Without a name for the labels nothing is read of them.
    """
    scheme = source.partition(":")[0]
    if scheme == "parquet":
        yield from _of_table(source, path, image, label)
        return
    images, labels = _digits() if scheme == "digits" else _arrays(source, path, image, label)
    for index, (pixels, number) in enumerate(zip(images, labels, strict=True)):
        where = f"{source} row {index}"
        yield where, SourceImage(_png(pixels), _label(number, label, where) if label else UNLABELLED)


def class_list(classes: list[str] | str) -> list[str]:
    """Return names of classes, those of a JSON file read. Raises ValueError for a file that holds no list of different names."""
    if isinstance(classes, list):
        names: Any = classes
    elif not classes:
        return []
    else:
        try:
            names = read_json(confined(Path(classes).expanduser()))
        except ValueError as error:
            raise ValueError(f"classes: {one_line(error)}; accepted: a JSON list of names") from error
        names = names.get("classes") if isinstance(names, dict) else names
    is_list = isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
    if not is_list or len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"classes is {str(names)[:80]}; accepted: a list of two names or more, each once")
    return names


def _of_table(source: str, path: Path, image: str, label: str) -> Iterator[tuple[str, SourceImage]]:
    for where, record in read_parquet(path, source):
        for column in filter(None, (image, label)):
            if column not in record:
                raise ValueError(f"{where} has no column {column!r}; it has {', '.join(map(str, list(record)[:20]))}")
        cell = record[image]
        # as `datasets` writes an image: its bytes beside the name of its file
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise ValueError(f"{where}: {image} is {type(content).__name__}; accepted: the bytes of an encoded image")
        yield where, SourceImage(content, _label(record[label], label, where) if label else UNLABELLED)


def _arrays(source: str, path: Path, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no npz file, of named arrays")
        with np.load(path, allow_pickle=False) as arrays:
            # named as files of arrays have them: several of each
            wanted = filter(None, (image, label))
            names = {name: next((n for n in (name, f"{name}s") if n in arrays.files), "") for name in wanted}
            if missing := [name for name, own in names.items() if not own]:
                raise ValueError(f"no array {missing[0]!r}; it has {', '.join(arrays.files[:20])}")
            images = arrays[names[image]]
            labels: Any = arrays[names[label]] if label else np.full(len(images), UNLABELLED)
    except MemoryError as error:
        raise ValueError(
            f"{source}: its arrays do not fit into memory ({one_line(error)}); accepted: fewer images, or parquet"
        ) from error
    except Exception as error:  # readers of zip files, of their packing and of numpy's headers raise anything
        raise ValueError(f"{source} cannot be read: {one_line(error)}") from error
    is_image = images.dtype == np.uint8 and images.ndim in (3, 4) and (images.ndim == 3 or images.shape[3] in (1, 3))
    if not is_image or not all(images.shape[1:]):
        raise ValueError(
            f"{source}: {names[image]} is {images.dtype} of shape {images.shape}; accepted: uint8 of N x H x W, or N x H x W x 1 or 3"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{source}: {len(images)} images and labels of shape {labels.shape}; accepted: one an image")
    return images, labels


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits  # in an extra
    except ImportError as error:
        raise ValueError("digits: comes with scikit-learn: install attar[data]") from error
    digits: Any = load_digits()
    return (digits.images * BRIGHTNESS).astype(np.uint8), digits.target


def _png(pixels: np.ndarray) -> bytes:
    """Return an array as PNG, which loses nothing."""
    try:
        from PIL import Image  # in an extra
    except ImportError as error:
        raise ValueError("images need Pillow: install attar[images]") from error
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(
        stream, format="PNG", compress_level=1
    )
    return stream.getvalue()


def _label(value: Any, name: str, where: str) -> int:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0
    if not is_whole:
        raise ValueError(f"{where}: {name} is {str(value)[:40]!r}; accepted: the number of a class, from 0")
    return int(value)
