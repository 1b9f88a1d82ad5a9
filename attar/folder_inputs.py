"""What a person gives where a stage takes an artifact. A folder, a file or a source line, turned into an artifact of the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from attar.registry.artifacts.delivery import delivered
from attar.registry.artifacts.handles import KINDS, Artifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.class_form import head_of
from attar.stages.artifacts.encoder.modules_file import MODULES
from attar.stages.contract import InputSlot, NoInputs
from attar.stages.ingest.bare_paths import data_source, model_source
from attar.stages.ingest.data import FORMS as DATA_FORMS
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.encoder import SentenceModel
from attar.stages.ingest.heads import ClassifierModel, TaggerModel
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.source_line import FORMS as MODEL_FORMS

# What a folder with a head over classes is taken as, by the kind of the head.
HEADS = {"classifier": ClassifierModel(kind="classifier"), "tagger": TaggerModel(kind="tagger")}


def slot_value(slot: InputSlot, given: Any, store: Store, stage_name: str) -> Any:
    """Return what a stage's slot takes, of artifacts, folders, files or source lines. Raises ValueError, in one line, for what it does not."""
    values = list(given) if isinstance(given, list | tuple) else [given]
    where = f"{stage_name}: {slot.name}"
    if (len(values) != 1 and not slot.is_many) or (slot.is_required and not values):
        raise ValueError(f"{where} takes one {_kinds(slot)}{' or several' if slot.is_many else ''}, not {len(values)}")
    artifacts = tuple(_artifact(slot, value, store, where) for value in values)
    for artifact in artifacts:
        if not any(artifact.kind == kind.kind for kind in slot.kinds):
            raise ValueError(f"{where} takes {_kinds(slot)}, not {artifact.kind}")
    return artifacts if slot.is_many else artifacts[0]


def _artifact(slot: InputSlot, value: Any, store: Store, where: str) -> Artifact:
    if not isinstance(value, str | os.PathLike):
        if getattr(value, "kind", None) in KINDS:
            return value
        raise ValueError(f"{where} = {value!r}: accepted: {_accepted(slot)}")
    text = os.fspath(value)
    path = Path(text).expanduser()
    kinds = {kind.kind for kind in slot.kinds}
    try:
        if (artifact := delivered(store, path)) is not None:
            return artifact
        if "model" in kinds and (path.is_dir() or text.partition(":")[0] in MODEL_FORMS or text.endswith(".gguf")):
            config = IngestModelConfig(source=model_source(text))
            if "encoder" in kinds and (path / MODULES).is_file():
                config = IngestModelConfig(source=model_source(text), model=SentenceModel())
            elif (path / "config.json").is_file() and (head := head_of(path)) is not None and head.kind in kinds:
                config = IngestModelConfig(source=model_source(text), model=HEADS[head.kind])
            return ingest_model.execute(config, NoInputs(), store).artifact
        if "dataset" in kinds and (path.is_file() or text.partition(":")[0] in DATA_FORMS):
            return ingest_data.execute(IngestDataConfig(source=data_source(text)), NoInputs(), store).artifact
    except ValueError as error:
        raise ValueError(f"{where} = {text!r}: {_message(error)}") from error
    lack = "" if path.exists() else "no such file or folder; "
    raise ValueError(f"{where} = {text!r}: {lack}accepted: {_accepted(slot)}")


def _message(error: ValueError) -> str:
    """Return an error's own words; of a config's complaint the first, without pydantic's frame."""
    complaints = getattr(error, "errors", None)
    text = str(complaints()[0]["msg"]).removeprefix("Value error, ") if complaints is not None else str(error)
    return " ".join(text.split())


def _accepted(slot: InputSlot) -> str:
    kinds = {kind.kind for kind in slot.kinds}
    forms = ["an artifact", "a folder that a stage wrote by output="]
    if "model" in kinds:
        forms.append("a Hugging Face folder")
    if "dataset" in kinds:
        forms.append("a .jsonl, .csv, .tsv, .parquet or .txt file")
    return f"{_kinds(slot)} as {', '.join(forms)}"


def _kinds(slot: InputSlot) -> str:
    return " or ".join(kind.kind for kind in slot.kinds)
