"""The GGUF form of a model: one file, written tensor by tensor, read back and compared with torch."""

from __future__ import annotations

from pathlib import Path

from attar.registry.artifacts.handles import Facts, GgufArtifact
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.gguf import GgufFormat


def forecast_gguf(form: GgufFormat, model: Facts) -> Forecast:
    """Return what the file will be and take."""
    raise NotImplementedError


def export_gguf(form: GgufFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path) -> GgufArtifact:
    """Write the file, read it back and have a runtime write what torch writes."""
    raise NotImplementedError
