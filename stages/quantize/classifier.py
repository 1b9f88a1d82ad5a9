"""Quantize a classifier's or a tagger's graph. Accepted only within limits that its distributions over classes keep on held-out texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attar.registry.artifacts.subjects import TAGGER
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.encoder import graph_facts, rows_of_both
from attar.stages.quantize.limits import ClassLimits
from attar.stages.runtime.progress import metric, note


def quantize_classifier(config: QuantizeConfig, inputs: QuantizeInputs, content: Path, label: str) -> Any:
    """Write the quantized graph and compare its classes with the float graph's. Raises ValueError when a limit does not hold."""
    quantized, (original, logits) = rows_of_both(config, inputs, content)
    quality = class_quality(original, logits, disk_bytes(content) / disk_bytes(inputs.model.path))
    for name, value in quality.items():
        metric(name, value)
    what = "token" if inputs.model.subject is TAGGER else "text"
    note(
        f"KL {quality['kl_nats']:.2g} nats a {what} over {len(logits)} {what}s, {quality['agreement']:.1%} of them in the same class; "
        f"{quality['size_fraction']:.3f} of the size"
    )
    if broken := broken_class_limits(cast(ClassLimits, config.limits), quality):
        raise ValueError(f"the quantized {inputs.model.subject.name} loses too much: {'; '.join(broken)}")
    facts = graph_facts(inputs, quantized, content, quality, label)
    carried = {name: quality[name] for name in ("kl_nats", "agreement", "size_fraction")}
    return type(inputs.model).at(content, {**facts, **carried})


def class_quality(original: Tensor, logits: Tensor, size_fraction: float) -> dict[str, float]:
    """Return how far two sets of logits are apart. KL in nats a row, and the share of rows in the same class."""
    before, after = original.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    nats = torch.linalg.vecdot(before.exp(), before - after)
    same = (before.argmax(dim=-1) == after.argmax(dim=-1)).float()
    return {
        "kl_nats": float(nats.mean()),
        "largest_kl_nats": float(nats.max()),
        "agreement": float(same.mean()),
        "size_fraction": size_fraction,
        "num_texts": float(len(logits)),
    }


def broken_class_limits(limits: ClassLimits, quality: dict[str, float]) -> list[str]:
    """Return each limit that does not hold, with what was measured."""
    checks = (
        ("KL", quality["kl_nats"], "<=", limits.max_kl_nats),
        ("agreement", quality["agreement"], ">=", limits.min_agreement),
        ("size fraction", quality["size_fraction"], "<=", limits.max_size_fraction),
    )
    return [
        f"{name} {value:.4g}, accepted {sign} {limit:g}"
        for name, value, sign, limit in checks
        if not (value <= limit if sign == "<=" else value >= limit)
    ]
