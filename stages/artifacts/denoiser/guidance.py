"""A denoiser's guidance adapters on disk, and beside the net that they were learned on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from attar.compressors.guidance.denoiser import DenoiserAdapters, ScaleAdapters
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact, DenoiserArtifact
from attar.stages.artifacts.denoiser.folder import Denoiser
from attar.stages.artifacts.guidance_files import ABOUT_FILE, WEIGHTS_FILE

# What an adapter's facts call them.
METHOD = "guidance"


def save_guidance(folder: Path, adapters: DenoiserAdapters, method: ScaleAdapters, bases: Mapping[str, Any]) -> Facts:
    """Write adapters and return what their facts say beside. `bases`: the net they learned on, with its share of the error that is left."""
    folder.mkdir(parents=True, exist_ok=True)
    scales = adapters.scales
    about = {"method": asdict(method), "low": scales.low, "high": scales.high, "bases": dict(bases)}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in adapters.state_dict().items()}, folder / WEIGHTS_FILE)
    return {"min_scale": scales.low, "max_scale": scales.high}


def attach_guidance(denoiser: Denoiser, adapter: AdapterArtifact, base: DenoiserArtifact) -> DenoiserAdapters:
    """Hang an artifact's adapters onto a denoiser loaded from `base`. Off until a scale is set.

    Raises ValueError for an adapter of another kind, or one that learned on another denoiser.
    """
    check_guidance(adapter.facts)
    trained_on = adapter.facts.base_fingerprint
    if trained_on != base.fingerprint:
        raise ValueError(
            f"guidance: the adapters were trained on model {trained_on[:12]}, not on {base.fingerprint[:12]}; accepted: that model"
        )
    about = json.loads((adapter.path / ABOUT_FILE).read_text())
    attentions = denoiser.kind.attentions(denoiser.net)
    adapters = ScaleAdapters(**about["method"]).built(attentions, about["low"], about["high"])
    adapters.load_state_dict(load_file(adapter.path / WEIGHTS_FILE))
    adapters.to(next(denoiser.net.parameters()).device).eval().requires_grad_(False)
    adapters.attach(attentions)
    return adapters


def check_guidance(adapter: Facts, scale: float | None = None) -> None:
    """Raise ValueError for an adapter that guides no denoiser, and a scale that it did not learn."""
    method = adapter.get("method", METHOD)
    if method != METHOD:
        raise ValueError(f"guidance: it holds what {method!r} trained; accepted: a finetune with adapt.kind guidance")
    if scale is None or "min_scale" not in adapter:
        return
    low, high = adapter["min_scale"], adapter["max_scale"]
    if not low <= scale <= high:
        raise ValueError(
            f"guidance_scale is {scale:g}, but the adapters learned {low:g} to {high:g}; accepted: one between them"
        )
