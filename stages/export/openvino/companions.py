"""What lies beside OpenVINO's model: tokenizer and detokenizer in its own form, and the files of the model's folder."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.model.turn_end import all_ends
from attar.stages.artifacts.onnx_folder import write_tokenizer_config

TOKENIZERS = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
GENERATION = "generation_config.json"


def write_companions(source: Path, folder: Path) -> None:
    """Copy config and tokenizer, say every end of an answer, and convert the tokenizer. Raises ValueError for one that has no such form."""
    copy_tokenizer(source, folder)
    write_tokenizer_config(folder)
    shutil.copy2(source / "config.json", folder / "config.json")
    tokenizer = load_tokenizer(source)
    path = source / GENERATION
    # the runtime stops at these alone, and knows no end that only the chat template writes
    generation = (read_object(path) if path.exists() else {}) | {"eos_token_id": all_ends(tokenizer, source)}
    (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n")
    openvino, tokenizers = (importlib.import_module(name) for name in ("openvino", "openvino_tokenizers"))
    try:
        converted = tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # a library's own, of any kind
        raise ValueError(
            f"openvino-tokenizers does not convert {type(tokenizer).__name__}: {one_line(error)}"
        ) from error
    for model, name in zip(converted, TOKENIZERS, strict=True):
        openvino.save_model(model, str(folder / name))
