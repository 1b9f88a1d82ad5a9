"""Stage `ingest_images`: bring images with their classes in, each decoded once to see that it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import file_digest
from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.kinds.classifier_facts import ImageDatasetFacts
from attar.stages.artifacts.dataset.partition import check_fractions, parted
from attar.stages.artifacts.images.dataset import BYTES, ImageRow, write_images
from attar.stages.artifacts.images.pixels import opened
from attar.stages.contract import Forecast, NoInputs, StageConfig, stage
from attar.stages.ingest.images.sources import FORMS, LOCAL, SourceImage, class_list, read_images
from attar.stages.runtime.progress import bar, note

# No data set has more: ImageNet-21k has 21,841.
MAX_CLASSES = 100_000


class ImageColumnsConfig(StageConfig):
    """Which columns hold what."""

    image: str = "image"
    """Column of a Parquet file with the encoded image (JPEG, PNG), or array of an npz file with numbers 0 to 255, N x H x W (x channels)."""

    label: str = "label"
    """Column or array with the number of the class, from 0; empty: nothing is read of classes, the images have none."""


class IngestImagesConfig(StageConfig):
    """Where images come from, and what their classes are called."""

    source: str
    """One of: parquet:PATH, npz:PATH, digits: (1,797 handwritten digits of 8 x 8 that scikit-learn ships)."""

    name: str = ""
    """Name in results and tables; empty: taken from the source, such as the file's name."""

    classes: list[str] | str = ""
    """Names of the classes in the order of their labels, or the path of a JSON file with them; empty: their numbers."""

    columns: ImageColumnsConfig = ImageColumnsConfig()
    """Which columns hold what."""

    channels: int = Field(default=0, ge=0, le=3)
    """3: every image is read in colour, 1: in grey; 0: in colour unless all are grey."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many images, in their order; 0: all."""

    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of images that are reported and that neither training nor any choice sees, in [0, 1), chosen by a hash of their bytes."""

    choose_fraction: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of images that choices are made on (early stop, best state), in [0, 1). null: half as many as are held out, at least one; 0: the
    held-out images do both."""

    tail_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """A long tail: of the training images of class k of K, from 0, the share tail_fraction^(k / (K - 1)) stays, rounded down and at least one
    image; the last class keeps tail_fraction itself. Held-out images stay. 1: all."""

    @field_validator("source")
    @classmethod
    def _known_form(cls, value: str) -> str:
        scheme, colon, rest = value.partition(":")
        if not colon or scheme not in FORMS or (scheme in LOCAL) != bool(rest):
            raise ValueError(f"source {value!r} has no known form; accepted: {', '.join(FORMS.values())}")
        if scheme in LOCAL and not local_path(value).is_file():
            problem = "is no plain file" if local_path(value).exists() else "does not exist"
            raise ValueError(f"{local_path(value)} {problem}; accepted: {FORMS[scheme]} with the path of a file")
        return value

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, value: int) -> int:
        if value == 2:
            raise ValueError("channels is 2; accepted: 0, 1, 3")
        return value

    @model_validator(mode="after")
    def _parts(self) -> IngestImagesConfig:
        check_fractions(self.heldout_fraction, self.choose_fraction)
        if not self.columns.label:
            for name in ("classes", "tail_fraction"):
                if name in self.model_fields_set:
                    raise ValueError(
                        f"{name} is given, but columns.label is empty: the images have no classes; accepted: one of both"
                    )
        return self


def local_path(source: str) -> Path:
    """Return the path of a source's file. Raises ValueError when a request may not read there."""
    return confined(Path(source.partition(":")[2]).expanduser())


def _forecast(config: IngestImagesConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    names = class_list(config.classes)
    # that it is of images is known before their size is
    facts = {"image_size": (0, 0), "name": config.name or _name_of(config.source)}
    facts |= {"num_classes": len(names)} if names or not config.columns.label else {}
    facts |= {"num_channels": config.channels} if config.channels else {}
    num_bytes = local_path(config.source).stat().st_size if config.source.partition(":")[0] in LOCAL else 0
    return Forecast(facts, disk_bytes=float(num_bytes))


def _outside(config: IngestImagesConfig) -> str:
    names = ",".join(class_list(config.classes))
    return (file_digest(local_path(config.source)) if config.source.partition(":")[0] in LOCAL else "") + names


@stage("ingest_images", version=1, forecast=_forecast, outside=_outside, is_light=True)
def ingest_images(config: IngestImagesConfig, inputs: NoInputs, workdir: Path) -> ImageDatasetArtifact:
    """Bring images in with their classes: encoded bytes as they came, each decoded once. An array becomes PNG, which loses nothing.

    Raises ValueError, naming file and row, for an image that is broken, a label that is no number of a class, and a data set of one class.
    """
    content = workdir / "content"
    columns = config.columns
    path = local_path(config.source) if config.source.partition(":")[0] in LOCAL else Path()
    rows, seen = _stored(
        read_images(config.source, path, columns.image, columns.label), config.max_rows, content / BYTES
    )
    if not rows:
        raise ValueError(f"{config.source} gave no images")
    names = (class_list(config.classes) or _numbers(rows, config.source)) if columns.label else []
    if columns.label:
        _check_labels(rows, names, config.source)
    channels = config.channels or (1 if seen.all_grey else 3)
    rows = parted(
        rows,
        [bytes.fromhex(row.sha256) for row in rows],
        heldout_fraction=config.heldout_fraction,
        choose_fraction=config.choose_fraction,
    )
    rows = with_tail(rows, len(names), config.tail_fraction)
    what = f"{len(names)} classes" if names else "no known class"
    note(f"{len(rows)} images of {what}, {'grey' if channels == 1 else 'colour'}, up to {seen.height} x {seen.width}")
    return write_images(content, rows, names, _form(config, (seen.height, seen.width), channels, len(names)))


def _form(config: IngestImagesConfig, size: tuple[int, int], channels: int, num_classes: int) -> ImageDatasetFacts:
    return ImageDatasetFacts(
        image_size=size,
        num_channels=channels,
        num_classes=num_classes,
        name=config.name or _name_of(config.source),
        source=config.source,
    )


class _Seen:
    """What the images of a source look like."""

    height = width = 0
    all_grey = True

    def add(self, image: SourceImage, where: str) -> None:
        """Look at one image. Raises ValueError naming its row when it is not whole."""
        try:
            decoded = opened(image.content)
        except ValueError as error:
            raise ValueError(f"{where}: image {error}") from error
        self.height, self.width = max(self.height, decoded.height), max(self.width, decoded.width)
        self.all_grey = self.all_grey and decoded.mode in ("L", "1")


def _stored(images: object, max_rows: int, path: Path) -> tuple[list[ImageRow], _Seen]:
    """Write the bytes of images one after the other and return where each lies."""
    rows: list[ImageRow] = []
    seen, start = _Seen(), 0
    counter = bar("reading images", max_rows, "images")
    with path.open("wb") as stream:
        for where, image in images:  # type: ignore[attr-defined]
            if max_rows and len(rows) == max_rows:
                break
            seen.add(image, where)
            stream.write(image.content)
            digest = hashlib.sha256(image.content).hexdigest()
            rows.append(ImageRow(f"{len(rows):06d}", image.label, start, len(image.content), digest))
            start += len(image.content)
            counter.advance()
    return rows, seen


def _numbers(rows: list[ImageRow], source: str) -> list[str]:
    """Return the numbers of the classes as their names. Raises ValueError for a label that is more likely something else than a class."""
    last = max(rows, key=lambda row: row.label)
    if last.label >= MAX_CLASSES:
        raise ValueError(
            f"{source} row {int(last.id)}: label {last.label} is no class of {MAX_CLASSES:,} at most; accepted: the number of a class, from 0"
        )
    return [str(index) for index in range(last.label + 1)]


def _check_labels(rows: list[ImageRow], names: list[str], source: str) -> None:
    for row in rows:
        if row.label >= len(names):
            raise ValueError(
                f"{source} row {int(row.id)}: label {row.label} is beyond the {len(names)} classes; accepted: 0 to {len(names) - 1}"
            )
    if len({row.label for row in rows}) < 2:
        raise ValueError(
            f"{source}: all {len(rows)} images are of class {rows[0].label}; accepted: two classes or more"
        )


def with_tail(rows: list[ImageRow], num_classes: int, tail_fraction: float) -> list[ImageRow]:
    """Return the rows with fewer training images of each class than of the one before it. Those that stay have the smallest digests."""
    if tail_fraction == 1.0 or num_classes < 2:
        return rows
    dropped: set[str] = set()
    for label in range(num_classes):
        learned = [row for row in rows if row.label == label and row.split == "train"]
        num_left = max(1, int(len(learned) * tail_fraction ** (label / (num_classes - 1))))
        dropped |= {row.id for row in sorted(learned, key=lambda row: row.sha256)[num_left:]}
    return [row for row in rows if row.id not in dropped]


def _name_of(source: str) -> str:
    scheme, _, rest = source.partition(":")
    return Path(rest).stem or scheme
