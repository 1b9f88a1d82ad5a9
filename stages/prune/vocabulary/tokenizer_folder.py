"""The files of a trimmed tokenizer. Its document is written anew, its configs renumbered; what would contradict it is left out."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.compressors.prune.vocabulary.renumber import renumbered
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import VOCABULARY_FILES, tokenizer_files

DOCUMENT = "tokenizer.json"
# Other forms of the whole vocabulary, and of its merges: a reader that prefers one would give the old ids.
CONTRADICTING = (
    *(name for name in VOCABULARY_FILES if name != DOCUMENT),
    "vocab*",
    "merges.txt",
    "*.model",
    "bpe.codes",
)


def write_trimmed_tokenizer(
    source: Path, folder: Path, document: Mapping[str, Any], new_ids: Mapping[int, int]
) -> list[str]:
    """Write the document and what lies beside it, and return the names of the files that were left out."""
    left_out = []
    for name in tokenizer_files(source):
        target = folder / name
        if name.as_posix() == DOCUMENT:
            continue
        if any(fnmatch.fnmatch(name.as_posix(), pattern) for pattern in CONTRADICTING):
            left_out.append(name.as_posix())
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.as_posix() in CHANGED:
            _write(target, CHANGED[name.as_posix()](read_object(source / name), new_ids))
        else:
            shutil.copy2(source / name, target)
    _write(folder / DOCUMENT, document)
    return left_out


def _config(config: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    changed = {**config, **renumbered(config, new_ids)}
    if "added_tokens_decoder" in config:
        tokens = {new_ids.get(int(index)): token for index, token in config["added_tokens_decoder"].items()}
        changed["added_tokens_decoder"] = {str(new): token for new, token in tokens.items() if new is not None}
    return changed


def _added(added: Mapping[str, int], new_ids: Mapping[int, int]) -> dict[str, int]:
    return {token: new_ids[index] for token, index in added.items() if index in new_ids}


CHANGED = {"tokenizer_config.json": _config, "added_tokens.json": _added}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
