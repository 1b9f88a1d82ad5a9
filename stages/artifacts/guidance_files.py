"""Guidance adapters on disk: `guidance.json` says what they are, `guidance.safetensors` holds them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from attar.compressors.catalogue import build
from attar.compressors.guidance.adapters import GuidanceAdapters, ScaleRange, build_adapters
from attar.compressors.guidance.catalogue import GUIDANCE_ADAPTERS
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ABOUT_FILE = "guidance.json"
WEIGHTS_FILE = "guidance.safetensors"


def is_guidance(folder: Path) -> bool:
    """Say whether an adapter's folder holds guidance adapters, rather than low-rank ones or weights."""
    return (folder / ABOUT_FILE).exists()


def save_guidance(folder: Path, adapters: GuidanceAdapters, adapter: str, bases: dict[str, float]) -> None:
    """Write adapters. `bases`: fingerprints of the models they passed the gate on, with the ratio measured there."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "adapter": adapter,
        "params": asdict(adapters.method),  # type: ignore[call-overload] - every method is a dataclass
        "scales": asdict(adapters.scales),
        "bases": bases,
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in adapters.state_dict().items()}, folder / WEIGHTS_FILE)


def load_guidance(folder: Path, model: PreTrainedModel) -> GuidanceAdapters:
    """Return the adapters, in evaluation mode on the model's device, not yet attached to it."""
    about = json.loads((folder / ABOUT_FILE).read_text())
    method = build(GUIDANCE_ADAPTERS, about["adapter"], about["params"])
    adapters = build_adapters(model, method, ScaleRange(**about["scales"]))
    adapters.load_state_dict(load_file(folder / WEIGHTS_FILE, device=str(model.device)))
    return adapters.eval().requires_grad_(False)


def attach_guidance(model: PreTrainedModel, adapter: AdapterArtifact, base: ModelArtifact) -> GuidanceAdapters:
    """Hang an artifact's adapters onto a model loaded from `base`; off until a scale is set.

    Raises ValueError for an artifact of another kind, or a base that it did not pass its gate on.
    """
    if not is_guidance(adapter.path):
        raise ValueError("the input guidance holds no guidance adapters; fold a low-rank adapter with merge instead")
    check_base(adapter, base)
    adapters = load_guidance(adapter.path, model)
    adapters.attach(model)
    return adapters


def proven_scales(adapters: GuidanceAdapters) -> list[float]:
    """Return the scales that an exported graph is compared at. The base itself, and both ends and the middle of the trained range."""
    low, high = adapters.scales.low, adapters.scales.high
    return sorted({1.0, low, 0.5 * (low + high), high})


def check_base(adapter: AdapterArtifact, base: ModelArtifact) -> None:
    """Raise ValueError for a base that the adapters were neither trained on nor measured to work on."""
    accepted = json.loads((adapter.path / ABOUT_FILE).read_text())["bases"]
    if base.fingerprint not in accepted:
        known = ", ".join(fingerprint[:12] for fingerprint in accepted)
        raise ValueError(
            f"the adapter passed its gate on {known}, not on model {base.fingerprint[:12]}; "
            "give that model to guide as the input `second` to have it measured"
        )
