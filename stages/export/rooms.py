"""Every format that `export` writes, by the kind of its config. To add one: a config in `formats`, a room, a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact
from attar.stages.contract import Forecast
from attar.stages.export.compressed_tensors.room import export_compressed_tensors, forecast_compressed_tensors
from attar.stages.export.ctranslate2.room import export_ctranslate2, forecast_ctranslate2
from attar.stages.export.gguf.room import export_gguf, forecast_gguf
from attar.stages.export.onnx.room import export_onnx, forecast_onnx
from attar.stages.export.openvino.room import export_openvino, forecast_openvino


@dataclass(frozen=True)
class Room:
    """How a format is priced and refused from the model's facts, and how it is written and proved.

    Both are given the format's own config first. `forecast(form, model_facts)` raises ValueError for a model that the format cannot hold;
    `run(form, config, inputs, workdir)` writes `workdir/content`, has a runtime read it, and raises ValueError where that is not the model.
    """

    forecast: Callable[[Any, Facts], Forecast]
    run: Callable[..., Artifact]
    # Whether guidance adapters can stay adapters in it, as its config says.
    takes_guidance: Callable[[Any], bool] = lambda form: False


ROOMS: dict[str, Room] = {
    "onnx": Room(forecast_onnx, export_onnx, takes_guidance=lambda form: form.operators == "fused"),
    "gguf": Room(forecast_gguf, export_gguf),
    "compressed_tensors": Room(forecast_compressed_tensors, export_compressed_tensors),
    "openvino": Room(forecast_openvino, export_openvino),
    "ctranslate2": Room(forecast_ctranslate2, export_ctranslate2),
}
