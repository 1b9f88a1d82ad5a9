"""Quantize an image classifier's graph. Accepted only within limits on held-out images that its distributions keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from attar.compressors.export.runtime import CPU
from attar.compressors.images.classifier import logits_of
from attar.compressors.images.session import GraphClassifier
from attar.registry.artifacts.handles import ImageDatasetArtifact, ImageGraphArtifact
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.images.dataset import ImageBytes, part_rows, read_image_rows
from attar.stages.artifacts.images.fit import graph_facts
from attar.stages.artifacts.images.pixels import PROCESSOR, PixelReader, StoredPixels, pixel_batches
from attar.stages.artifacts.onnx_folder import DATA, disk_bytes, read_structure, write_graph
from attar.stages.artifacts.onnx_session import GRAPH, open_session
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.encoder import refuse_causal_settings
from attar.stages.quantize.limits import ClassLimits
from attar.stages.runtime.progress import bar, metric, note

RESULT = "quality.json"
AT_ONCE = 32
KINDS = ("static", "dynamic")


def check_image_quantize(config: QuantizeConfig) -> None:
    """Raise ValueError for what is chosen by running a causal graph over text."""
    if config.weights.kind not in KINDS:
        raise ValueError(
            f"weights.kind is {config.weights.kind!r}, which is for matrices alone; accepted for an image classifier: {', '.join(KINDS)}"
        )
    refuse_causal_settings(config, IMAGES, "exclude")


def quantize_image_graph(
    config: QuantizeConfig, inputs: QuantizeInputs, content: Path, label: str
) -> ImageGraphArtifact:
    """Write the quantized graph and compare its distributions with the float graph's. Raises ValueError when a limit does not hold."""
    model, data = cast(ImageGraphArtifact, inputs.model), cast(ImageDatasetArtifact, inputs.data)
    reader, stored = PixelReader(model.path, model.facts.num_channels), ImageBytes(data)
    rows = read_image_rows(data.path)
    learned = [row for row in rows if row.split == "train"] or rows
    calibration = [reader.stored(data, row, stored) for row in learned[: config.measured.num_samples]]
    _write(config, model.path, calibration, content)
    measured = part_rows(rows, "heldout")[: config.measured.max_rows or None]
    images = [reader.stored(data, row, stored) for row in measured]
    counter = bar("measuring the loss", 2 * len(images), "images")
    floats, integers = (
        logits_of(GraphClassifier(open_session(folder), CPU), pixel_batches(images, AT_ONCE), counter.advance)
        for folder in (model.path, content)
    )
    own, other = floats.log_softmax(dim=-1), integers.log_softmax(dim=-1)
    quality = {
        "kl_nats": float((own.exp() * (own - other)).sum(dim=-1).mean()),
        "agreement": float((own.argmax(dim=-1) == other.argmax(dim=-1)).float().mean()),
        "size_fraction": disk_bytes(content) / disk_bytes(model.path),
        "num_images": float(len(images)),
    }
    for name, value in quality.items():
        metric(name, value)
    note(
        f"of {len(images)} images {quality['agreement']:.1%} stay in their class, KL {quality['kl_nats']:.2g} nats, in "
        f"{quality['size_fraction']:.3f} of the bytes"
    )
    _refuse_loss(config, quality)
    (content / RESULT).write_text(json.dumps(quality, indent=1))
    held = {"weight_bytes": float((content / DATA).stat().st_size)}
    carried = {name: quality[name] for name in ("kl_nats", "agreement", "size_fraction")}
    return ImageGraphArtifact.at(content, {**graph_facts(model.facts, label), **carried, **held})


def _write(config: QuantizeConfig, source: Path, calibration: Sequence[StoredPixels], content: Path) -> None:
    """Write the graph in integers, its weights beside it, and what says how images are read."""
    from attar.stages.quantize import convolutions  # its libraries are in an extra

    written = content / "quantized.onnx"
    graph = source / GRAPH
    excluded = _ends_with(source, config.exclude)
    if config.weights.kind == "static":
        convolutions.with_static_ranges(graph, pixel_batches(calibration, AT_ONCE), written, excluded=excluded)
    else:
        convolutions.with_dynamic_ranges(graph, written, excluded=excluded)
    write_graph(_loaded(written), content)
    written.unlink()
    for name in (PROCESSOR, "config.json"):
        shutil.copy2(source / name, content / name)


def _loaded(path: Path):  # type: ignore[no-untyped-def] - its library is in an extra
    import onnx_ir as ir

    return ir.load(path)


def _ends_with(folder: Path, ends: Sequence[str]) -> list[str]:
    """Return the nodes whose names end so. Raises ValueError for an end that no node has."""
    names = [str(node.name) for node in read_structure(folder).graph] if ends else []
    for end in ends:
        if not any(name.endswith(end) for name in names):
            raise ValueError(
                f"exclude has {end!r}, which no node of the graph ends with; it has {', '.join(names[:5])}"
            )
    return [name for name in names if name.endswith(tuple(ends))] if ends else []


def _refuse_loss(config: QuantizeConfig, quality: dict[str, float]) -> None:
    allowed = cast(ClassLimits, config.limits)
    broken = [
        f"{name} {quality[name]:.4g} > {limit:g}"
        for name, limit in (("kl_nats", allowed.max_kl_nats), ("size_fraction", allowed.max_size_fraction))
        if not quality[name] <= limit
    ]
    if not quality["agreement"] >= allowed.min_agreement:
        broken.append(f"agreement {quality['agreement']:.4g} < {allowed.min_agreement:g}")
    if broken:
        raise ValueError(f"the quantized classifier loses too much: {'; '.join(broken)}")
