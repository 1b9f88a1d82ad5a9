"""Write a model folder as MLflow's transformers flavor, with the ONNX graph beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.transformers
from huggingface_hub import ModelCard
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from registry.environment import package_versions

REQUIREMENTS = ("torch", "transformers", "accelerate")


def write_transformers_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    model_folder: Path,
    onnx_folder: Path | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write `model` so that `mlflow.transformers.load_model` finds it: MLmodel, `model/`, `components/tokenizer/`, and `onnx/`.

    `model/` is also a complete Hugging Face folder of its own: the tokenizer files are copied in.
    """
    versions = package_versions()
    shutil.rmtree(folder, ignore_errors=True)
    mlflow.transformers.save_model(
        transformers_model={"model": model, "tokenizer": tokenizer},
        path=str(folder),
        task="text-generation",
        signature=text_generation_signature(),
        model_card=_card(metadata),  # else MLflow asks the hub for one
        pip_requirements=[f"{name}=={versions[name]}" for name in REQUIREMENTS if name in versions],
        metadata=dict(metadata),
    )
    for path in model_folder.iterdir():
        if not (folder / "model" / path.name).exists() and path.is_file():
            shutil.copy2(path, folder / "model" / path.name)
    if onnx_folder is not None:
        shutil.copytree(onnx_folder, folder / "onnx", dirs_exist_ok=True, ignore=shutil.ignore_patterns("records"))


def _card(metadata: Mapping[str, Any]) -> ModelCard:
    lines = [f"- {name}: {value}" for name, value in metadata.items()]
    text = ["# Compressed with Attar", "", "`model/` is a Hugging Face folder, `onnx/` its ONNX graph.", "", *lines]
    return ModelCard("\n".join(["---", "license: other", "---", *text]))


def text_generation_signature() -> ModelSignature:
    """Return the signature of a text generator: a text in, a text out, and how long the answer may be."""
    text = Schema([ColSpec(DataType.string)])
    return ModelSignature(text, text, ParamSchema([ParamSpec("max_new_tokens", DataType.long, 128)]))
