"""Images come in whole: bytes as they were, arrays without a loss. What is broken is named by its row."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.pixels import decoded
from attar.stages.ingest.images.sources import class_list
from attar.stages.ingest.images.stage import IngestImagesConfig
from tests.stages.artifacts.images.conftest import NUM_CLASSES, image_arrays, ingested, png


def table(path: Path, content: list[bytes], labels: list[int]) -> str:
    columns = {"image": pyarrow.array(content, pyarrow.binary()), "label": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return f"parquet:{path}"


def test_arrays_come_back_to_the_last_pixel_in_three_parts(images: ImageDatasetArtifact) -> None:
    pixels, labels = image_arrays(96)
    rows, stored = read_image_rows(images.path), ImageBytes(images)
    assert [row.label for row in rows] == labels.tolist()
    for index in (0, 17, 95):
        assert np.array_equal(decoded(stored(rows[index]), 1)[..., 0], pixels[index])
    assert Counter(row.split for row in rows) == {"train": 60, "heldout": 24, "choose": 12}
    facts = images.facts
    assert (facts.num_channels, facts.num_classes, facts.image_size) == (1, NUM_CLASSES, (16, 16))
    assert (facts.num_rows, facts.num_heldout, facts.num_choose) == (96, 24, 12)


def test_a_table_keeps_encoded_bytes_and_names_of_classes(store: Store, tmp_path: Path) -> None:
    pixels, labels = image_arrays(8, channels=3)
    content = [png(image) for image in pixels]
    (tmp_path / "classes.json").write_text('{"classes": ["nw", "ne", "sw", "se"]}')
    source = table(tmp_path / "some.parquet", content, labels.tolist())
    data = ingested(store, source, classes=str(tmp_path / "classes.json"), heldout_fraction=0.25)
    rows, stored = read_image_rows(data.path), ImageBytes(data)
    assert [stored(row) for row in rows] == content and read_classes(data.path) == ("nw", "ne", "sw", "se")
    assert data.facts.num_channels == 3 and data.facts.name == "some"


def test_a_broken_image_is_named_by_its_row_and_why(store: Store, tmp_path: Path) -> None:
    pixels, labels = image_arrays(4)
    content = [png(image) for image in pixels]
    cut = [*content[:2], content[2][:60], content[3]]
    with pytest.raises(ValueError, match=r"broken.parquet row 2: image is no whole image: "):
        ingested(store, table(tmp_path / "broken.parquet", cut, labels.tolist()))
    with pytest.raises(
        ValueError, match=r"none.parquet row 1: image is bytes; accepted: the bytes of an encoded image"
    ):
        ingested(store, table(tmp_path / "none.parquet", [content[0], b""], [0, 1]))


def test_labels_are_numbers_of_classes_and_several(store: Store, tmp_path: Path) -> None:
    content = [png(image) for image in image_arrays(3)[0]]
    with pytest.raises(ValueError, match=r"row 2: label 7 is beyond the 2 classes; accepted: 0 to 1"):
        ingested(store, table(tmp_path / "beyond.parquet", content, [0, 1, 7]), classes=["a", "b"])
    with pytest.raises(ValueError, match="all 3 images are of class 1; accepted: two classes or more"):
        ingested(store, table(tmp_path / "single.parquet", content, [1, 1, 1]))
    with pytest.raises(ValueError, match=r"row 0: label is '-1'; accepted: the number of a class, from 0"):
        ingested(store, table(tmp_path / "negative.parquet", content, [-1, 0, 1]))


def test_a_label_that_is_an_id_makes_no_million_classes(store: Store, tmp_path: Path) -> None:
    content = [png(image) for image in image_arrays(2)[0]]
    with pytest.raises(ValueError, match=r"ids.parquet row 1: label 1000000007 is no class of 100,000 at most"):
        ingested(store, table(tmp_path / "ids.parquet", content, [3, 1_000_000_007]))


def saved(image: Any, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def test_an_image_of_thirty_two_bits_is_refused_by_its_row(store: Store, tmp_path: Path) -> None:
    # Pillow makes 255 of all that is above; what the largest level means is not known, as it is of 16 bits
    deep = saved(Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4) * 4096), form="TIFF")
    plain = png(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"deep.parquet row 1: image has pixels of 32 bits \(mode I\)"):
        ingested(store, table(tmp_path / "deep.parquet", [plain, deep], [0, 1]))


def test_a_photo_stands_upright_as_its_camera_says() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    lying = saved(Image.fromarray(pixels), exif=exif)
    assert np.array_equal(decoded(lying, 1)[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.npz", "cannot be read"),
        ("single.npz", "cannot be read: ValueError: no npz file, of named arrays"),
        ("promised.npz", "its arrays do not fit into memory"),
        ("flat.npz", r"images is uint8 of shape \(2, 0, 4\); accepted: uint8 of N x H x W"),
    ],
)
def test_damaged_arrays_are_named_by_their_file(store: Store, tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    if name == "cut.npz":  # a byte of what is packed is another
        np.savez_compressed(path, images=image_arrays(8)[0], labels=np.arange(8) % 2)
        content = bytearray(path.read_bytes())
        content[90] ^= 0xFF
        path.write_bytes(content)
    elif name == "single.npz":
        np.save(tmp_path / "single.npy", np.zeros(3, np.uint8))
        (tmp_path / "single.npy").rename(path)
    elif name == "promised.npz":
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 64, 64), }"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            archive.writestr("labels.npy", b"")
    else:
        np.savez(path, images=np.zeros((2, 0, 4), np.uint8), labels=np.arange(2))
    with pytest.raises(ValueError, match=message) as refused:
        ingested(store, f"npz:{path}")
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_a_pipe_in_place_of_the_names_of_classes_stalls_no_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.json")
    with pytest.raises(ValueError, match="classes: .* is no plain file; refused; accepted: a JSON list of names"):
        class_list(str(tmp_path / "classes.json"))


def test_arrays_of_objects_are_never_unpickled(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object), labels=np.array([0]))
    with pytest.raises(ValueError, match="objects.npz cannot be read: .*allow_pickle=False"):
        ingested(store, f"npz:{tmp_path / 'objects.npz'}")
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 8, 8)), labels=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"images is float64 of shape \(2, 8, 8\); accepted: uint8"):
        ingested(store, f"npz:{tmp_path / 'floats.npz'}")


def test_digits_come_from_scikit_learn(store: Store) -> None:
    data = ingested(store, "digits:", max_rows=40)
    assert (data.facts.num_rows, data.facts.num_classes, data.facts.num_channels) == (40, 10, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "folder:/x"}, "has no known form; accepted: parquet:PATH.parquet, npz:PATH.npz, digits:"),
        ({"source": "npz:/nowhere.npz"}, "does not exist; accepted: npz:PATH.npz"),
        ({"source": "digits:", "channels": 2}, "channels is 2; accepted: 0, 1, 3"),
    ],
)
def test_a_source_that_is_none_is_refused_while_the_recipe_loads(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IngestImagesConfig(**config)
