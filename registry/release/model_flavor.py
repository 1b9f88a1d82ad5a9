"""Write one version's folder: the model, its graphs under MLflow's onnx flavor, the card. Of transformers the model has a flavor too."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.transformers
from huggingface_hub import ModelCard
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from attar.registry.artifacts.environment import package_versions
from attar.registry.artifacts.files import open_to_readers
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.release.figures import write_figures

REQUIREMENTS = ("torch", "transformers", "accelerate")
# Where MLflow has no flavor that reads the whole model. That of diffusers, 3.17.2, takes adapters alone.
PLAIN_REQUIREMENTS = ("torch", "safetensors")
EXAMPLE = ["What is the capital of France?"]
CARD = "README.md"
GRAPH = "model.onnx"
# What MLmodel says a graph is run on where its reader does not choose.
PROVIDERS = ["CPUExecutionProvider"]


def write_version(
    folder: Path,
    components: Mapping[str, Any],
    *,
    model_folder: Path,
    form_folders: Mapping[str, Path],
    card: str,
    metadata: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]] = (),
    task: str = "text-generation",
    library: str = "transformers",
) -> None:
    """Write a model so that `mlflow.transformers.load_model` finds it and the first graph so that `mlflow.onnx.load_model` does.

    `components`: the model, and its tokenizer or image processor, by transformers' words for them; none of one that `library` alone reads,
    whose folder is copied to `model/` as it is.
    `model/` is also a complete Hugging Face folder of its own, with config and tokenizer as in `model_folder`. Each of `form_folders`
    (name in the version -> where it lies) is copied whole. MLmodel holds one flavor of a kind: it lists all forms in its metadata.
    `figures` are the rows of the version's table.
    """
    graphs = [name for name, source in form_folders.items() if (source / GRAPH).is_file()]
    shutil.rmtree(folder, ignore_errors=True)
    requirements = _pinned(REQUIREMENTS if components else (library, *PLAIN_REQUIREMENTS))
    metadata = {**metadata, "attar.onnx": sorted(graphs), "attar.forms": sorted(form_folders)}
    if components:
        mlflow.transformers.save_model(
            transformers_model=dict(components),
            path=str(folder),
            task=task,
            signature=SIGNATURES[task](),
            input_example=EXAMPLE if "tokenizer" in components else None,
            model_card=ModelCard(card),  # else MLflow asks the hub for one
            pip_requirements=requirements,
            metadata=metadata,
        )
        _copy_words(model_folder, folder / "model")
    else:
        _write_plain(folder, model_folder, requirements, {**metadata, "attar.library": library})
    for name, source in form_folders.items():
        shutil.copytree(source, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("records"))
    if graphs:
        _add_onnx_flavor(folder, graphs[0])
    (folder / CARD).write_text(card)
    write_figures(folder, figures)
    open_to_readers(folder)


def _write_plain(folder: Path, model_folder: Path, requirements: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Copy a model's folder, and describe it as a model of no flavor."""
    shutil.copytree(model_folder, folder / "model", ignore=shutil.ignore_patterns(RECORDS_FOLDER))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
    Model(metadata=dict(metadata)).save(str(folder / MLMODEL_FILE_NAME))


def _copy_words(source: Path, target: Path) -> None:
    """Copy all but weights and records over what MLflow wrote anew: a config that older readers understand, templates, tokenizer files."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source)
        if name.parts[0] != RECORDS_FOLDER and ".safetensors" not in path.name:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)


def text_generation_signature() -> ModelSignature:
    """Return the signature of a text generator: a text in, a text out, and how long the answer may be."""
    text = Schema([ColSpec(DataType.string)])
    return ModelSignature(text, text, ParamSchema([ParamSpec("max_new_tokens", DataType.long, 128)]))


def embedding_signature() -> ModelSignature:
    """Return the signature of MLflow's own pipeline over an encoder. A text in, the states of its tokens out, not pooled."""
    return ModelSignature(Schema([ColSpec(DataType.string)]), Schema([ColSpec(Array(Array(DataType.double)))]))


def classification_signature() -> ModelSignature:
    """Return the signature of MLflow's own pipeline over a classifier. A text, or an image's path or bytes, in, labels with scores out."""
    outputs = Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score")])
    return ModelSignature(Schema([ColSpec(DataType.string)]), outputs)


def tagging_signature() -> ModelSignature:
    """Return the signature of MLflow's own pipeline over a tagger. A text in, the tags of its tokens, with commas between them, out."""
    text = Schema([ColSpec(DataType.string)])
    return ModelSignature(text, text)


# By MLflow's word for what a model does.
SIGNATURES = {
    "text-generation": text_generation_signature,
    "feature-extraction": embedding_signature,
    "image-classification": classification_signature,
    "text-classification": classification_signature,
    "token-classification": tagging_signature,
}


def _pinned(names: Sequence[str]) -> list[str]:
    """Return requirements of what is installed here of these packages."""
    versions = package_versions()
    return [f"{name}=={versions[name]}" for name in names if name in versions]


def _add_onnx_flavor(folder: Path, name: str) -> None:
    """List a graph that lies there already: MLflow's own writer would rename its data file and drop the tokenizer."""
    described = Model.load(str(folder))
    described.add_flavor(
        "onnx",
        onnx_version=package_versions().get("onnx", ""),
        data=f"{name}/{GRAPH}",
        providers=PROVIDERS,
        onnx_session_options=None,
        code=None,
    )
    described.save(str(folder / MLMODEL_FILE_NAME))
