"""How the forms that Attar writes are opened, to read texts and to be timed. No script."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from llama_cpp import LlamaCpp

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.cost import Timer, timer_of
from attar.compressors.models.runner import CausalRunner, TorchRunner
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.export.ctranslate2 import runner as ctranslate2
from attar.stages.export.openvino import runner as openvino
from attar.stages.ingest.model import IngestModelConfig, ingest_model


def open_runner(artifact: Artifact) -> CausalRunner:
    """Return what reads texts as a form does."""
    if artifact.is_graph:
        return OnnxRunner(open_session(artifact.path))
    if artifact.kind == "openvino":
        return openvino.open_folder(artifact.path)
    if artifact.kind == "ctranslate2":
        return ctranslate2.open_folder(artifact.path, str(artifact.facts["quantization"]), [0])
    source = IngestModelConfig(source=f"gguf:{next(artifact.path.glob('*.gguf'))}")
    with tempfile.TemporaryDirectory() as scratch:
        read = ingest_model.execute(source, NoInputs(), Store(Path(scratch))).artifact
        return TorchRunner(load_model(read.path, torch.float32))


@contextmanager
def open_all(artifacts: Mapping[str, Artifact]) -> Iterator[dict[str, Timer]]:
    """Open all forms, so that they take turns."""
    timers: dict[str, Timer] = {}
    programs: list[LlamaCpp] = []
    try:
        for name, artifact in artifacts.items():
            if artifact.kind == "gguf":
                programs.append(LlamaCpp(next(artifact.path.glob("*.gguf"))))
                timers[name] = programs[-1].time_once
            else:
                timers[name] = timer(artifact)
        yield timers
    finally:
        for program in programs:
            program.close()


def timer(artifact: Artifact) -> Timer:
    """Return what times a form once, in this process."""
    if artifact.kind == "model":
        return timer_of(TorchRunner(load_model(artifact.path, torch.float32)))
    if artifact.kind == "ctranslate2":
        return ctranslate2.open_folder(artifact.path, str(artifact.facts["quantization"]), [0]).time_once
    return timer_of(
        openvino.open_folder(artifact.path) if artifact.kind == "openvino" else OnnxRunner(open_session(artifact.path))
    )
