"""Open a model that writes or scores, torch or ONNX, and find the tokens that end its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.runner import CausalRunner, PrefixableRunner, TorchRunner
from attar.registry.artifacts.handles import ModelArtifact, OnnxArtifact, PrefixArtifact
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.prefix.folder import prefixed
from attar.stages.runtime.device import Precision, pick_device, pick_dtype


def open_runner(
    model: ModelArtifact | OnnxArtifact, precision: Precision, prefix: PrefixArtifact | None = None
) -> CausalRunner:
    """Return a runner of the model on the device of this machine, behind a prefix where there is one.

    A graph brings its own precision.
    """
    runner: PrefixableRunner
    if model.is_graph:
        runner = OnnxRunner(open_session(model.path))
    else:
        device = pick_device()
        runner = TorchRunner(load_model(model.path, pick_dtype(precision, device), device))
    return runner if prefix is None else prefixed(runner, prefix)


def stop_ids_of(tokenizer: Any, folder: Path) -> list[int]:
    """Return every token that ends an answer of the model in this folder."""
    from transformers import AutoConfig, GenerationConfig  # a second that a plan need not wait for

    if (folder / "generation_config.json").exists():
        return stop_token_ids(tokenizer, GenerationConfig.from_pretrained(folder))
    return stop_token_ids(tokenizer, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
