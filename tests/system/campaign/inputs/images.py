"""Mutated files of images with classes: each comes in whole, with labels of its classes, or is refused by file and row."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.pixels import decoded
from attar.stages.contract import NoInputs
from attar.stages.ingest.images.stage import IngestImagesConfig, ingest_images
from tests.system.campaign.inputs.mutate import changed_bytes, changed_value, checked, odd_value

COUNT = 2_000
CLEAN = (ValueError,)
FORMS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I", "F", "I;16")
NAMES = ["zero", "one", "two"]


def prepare(scratch: Path) -> list[bytes]:
    """Return images of every form and mode that Pillow writes."""
    contents = []
    pixels = Image.fromarray(np.arange(12 * 10, dtype=np.uint8).reshape(12, 10))
    for form in FORMS:
        for mode in MODES:
            stream = io.BytesIO()
            try:
                (pixels if mode == "L" else pixels.convert(mode)).save(stream, format=form)
            except (OSError, ValueError, KeyError):  # a mode that this form does not hold
                continue
            contents.append(stream.getvalue())
    return contents


def attempt(contents: list[bytes], seed: int, folder: Path) -> None:
    """Write a mutated file and bring it in; every image that comes in is whole, and of one of the classes."""
    random_ = random.Random(seed)
    form = random_.choice(["parquet", "parquet", "npz"])
    path = folder / f"images.{form}"
    (_write_table if form == "parquet" else _write_arrays)(path, contents, random_)
    if random_.random() < 0.3:
        path.write_bytes(changed_bytes(path.read_bytes(), random_))
    options: dict[str, Any] = {"source": f"{form}:{path}", "heldout_fraction": random_.choice([0.0, 0.3])}
    options["channels"] = random_.choice([0, 0, 1, 3])
    if random_.random() < 0.4:
        options["classes"] = _classes(folder, random_)
    config = checked(IngestImagesConfig, **options)
    ingest_images.forecast(config, {})
    data = ingest_images.execute(config, NoInputs(), Store(folder / "home")).artifact
    rows, stored = read_image_rows(data.path), ImageBytes(data)
    for row in rows:
        assert 0 <= row.label < len(read_classes(data.path)), row
        assert decoded(stored(row), data.facts.num_channels).shape[-1] == data.facts.num_channels


def _write_table(path: Path, contents: list[bytes], random_: random.Random) -> None:
    rows: list[Any] = [
        {"image": {"bytes": _content(contents, random_), "path": "a"}, "label": index % 3}
        for index in range(random_.randint(2, 6))
    ]
    if random_.random() < 0.5:
        rows = changed_value(rows, random_)
    try:
        table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        pyarrow.parquet.write_table(table, path)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, AttributeError):  # what no table can hold
        path.write_bytes(b"PAR1")


def _content(contents: list[bytes], random_: random.Random) -> bytes:
    content = random_.choice(contents)
    return changed_bytes(content, random_) if random_.random() < 0.2 else content


def _write_arrays(path: Path, contents: list[bytes], random_: random.Random) -> None:
    count = random_.randint(1, 6)
    shape = random_.choice(
        [(count, 4, 4), (count, 4, 4), (count, 4, 4, 3), (count, 4, 4, 2), (count, 0, 4), (count, 4), (0, 4, 4)]
    )
    kind = random_.choice([np.uint8, np.uint8, np.uint8, np.float32, np.int64, np.bool_])
    labels: Any = np.arange(random_.choice([count, count, count, count + 1])) % 3
    labels = random_.choice(
        [
            labels,
            labels,
            labels[:, None],
            labels.astype(float),
            labels - 1,
            labels * 2**40,
            labels.astype(str),
            labels > 0,
        ]
    )
    names = random_.choice([("images", "labels"), ("image", "label"), ("x", "y"), ("images", "label")])
    if random_.random() < 0.1:
        np.save(path.with_suffix(".npy"), labels)
        path.with_suffix(".npy").rename(path)
        return
    (np.savez if random_.random() < 0.5 else np.savez_compressed)(
        path, **{names[0]: np.ones(shape, kind), names[1]: labels}
    )
    if random_.random() < 0.1:  # a header that promises more than is there
        with zipfile.ZipFile(path, "w") as archive:
            header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 64, 64), }"
            archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            archive.writestr("labels.npy", b"")


def _classes(folder: Path, random_: random.Random) -> Any:
    if random_.random() < 0.4:
        return random_.choice([NAMES, NAMES[:2], NAMES[:1], [*NAMES, "one"], [*NAMES, ""], odd_value(random_)])
    path = folder / "classes.json"
    content = random_.choice(
        [NAMES, {"classes": NAMES}, changed_value(NAMES, random_), changed_value({"classes": NAMES}, random_)]
    )
    path.write_bytes(json.dumps(content).encode(errors="surrogatepass"))
    return str(path)
