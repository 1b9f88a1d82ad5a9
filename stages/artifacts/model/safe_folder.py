"""Refuse an unsafe model folder before anything of it is opened. Unsafe: runs code, reaches out, is no plain file, or too large to be one."""

from __future__ import annotations

import json
import re
import stat
from itertools import islice
from pathlib import Path
from typing import Any

# Formats that unpickle, and source files: loading a model must never run what came with it.
UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".py", ".so"}
UNSAFE_CONFIG_KEYS = ("auto_map", "_attn_implementation_internal", "custom_pipelines")
# Larger than any that is published: Gemma's tokenizer.json has 33 MB, DeepSeek-V3's index 9 MB, Gemma's tokenizer_config.json 1.2 MB.
MAX_VOCABULARY_BYTES = 512_000_000
MAX_JSON_BYTES = 32_000_000
MAX_CONFIG_BYTES = 4_000_000
MAX_TEMPLATE_BYTES = 2_000_000
MAX_TEXT_BYTES = 64_000_000
VOCABULARIES = ("tokenizer.json", "vocab.json", "tekken.json", "added_tokens.json")
# Ends of the names of what the libraries parse as JSON; other JSON lies in many folders and is never opened.
READ_NAMES = ("config.json", "special_tokens_map.json", "chat_template.json", ".index.json")
# What a training by sentence-transformers leaves beside a model, a list: nothing reads it.
UNREAD_NAMES = ("data_config.json",)
TEXT_SUFFIXES = {".txt", ".md", ".model", ".spm", ".tiktoken", ".vocab", ".codes"}
MAX_FILES = 20_000
MAX_DEPTH = 64
# Building a model takes time and memory for each block and expert, even without weights. Models of today have 130 blocks and 512 experts.
MAX_COUNTS = {"block": 1_000, "expert": 10_000}
COUNT_NAMES = {
    "block": re.compile(r"(num|n)_(\w+_)?(layers?|blocks?)|num_block_repeats|depths|layers_per_block"),
    "expert": re.compile(r"(num|n)_(\w+_)?experts"),
}
# Families of encoders whose states are pooled to the vector of a text, each tried: cut, written, loaded and exported.
ENCODER_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")
LFS_POINTER = b"version https://git-lfs"
MAX_POINTER_BYTES = 1024


def refuse_unsafe(folder: Path) -> None:
    """Raise ValueError naming the first unsafe thing in a model folder. Unsafe: runs code, stalls its reader, or reaches out of it."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    paths = list(islice(folder.rglob("*"), MAX_FILES + 1))
    if len(paths) > MAX_FILES:
        raise ValueError(f"{folder} holds more than {MAX_FILES:,} files: it is not one model's folder")
    for path in sorted(paths):
        if path.is_symlink() and not _stays_inside(path, folder):
            raise ValueError(f"{folder}: {path.name} links to {path.readlink()}, outside the folder; refused")
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise ValueError(f"{folder}: {path.name} can run code when loaded; only safetensors folders are taken")
        _refuse_odd_file(folder, path)
        if path.name.endswith(READ_NAMES) and path.name not in UNREAD_NAMES and (key := _unsafe_key(path)):
            raise ValueError(f"{folder}: {path.name} asks for remote code ({key}); refused")
        if path.name.endswith(".index.json"):
            _refuse_far_shards(folder, path)
    _refuse_outsized(folder)


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of bounded size. Raises ValueError for another file, other JSON, or one nested too deep."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def read_json(path: Path) -> Any:
    """Return what a plain JSON file of bounded size holds. Raises ValueError for another file, a larger one, or one nested too deep."""
    size = _plain_size(path)
    limit = MAX_CONFIG_BYTES if path.name in ("config.json", "generation_config.json") else MAX_JSON_BYTES
    if size > limit:
        raise ValueError(f"{path} has {size:,} bytes; accepted: {limit:,} at most")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is nested more than {MAX_DEPTH} deep; refused") from error
    except ValueError as error:  # bytes that are no text too
        raise ValueError(f"{path} is not JSON: {error}") from error


def _stays_inside(link: Path, folder: Path) -> bool:
    """Say whether a link ends in its folder, or, in the hub's cache, among the blobs that its snapshots consist of."""
    real, home = link.resolve(), folder.resolve()
    is_snapshot = home.parent.name == "snapshots"
    return real.is_relative_to(home) or (is_snapshot and real.is_relative_to(home.parents[1] / "blobs"))


def _plain_size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no plain file; refused")
    return status.st_size


def _refuse_odd_file(folder: Path, path: Path) -> None:
    """Refuse a pipe, which would stall whoever opens it, a pointer of git-lfs, which is not the file, and a huge text."""
    if path.is_dir():
        return
    size = _plain_size(path)
    if size <= MAX_POINTER_BYTES and path.read_bytes().startswith(LFS_POINTER):
        raise ValueError(
            f"{folder}: {path.name} is a pointer of git-lfs, not the file itself; run `git lfs pull` there"
        )
    limit = MAX_TEXT_BYTES if path.suffix in TEXT_SUFFIXES else size
    limit = MAX_TEMPLATE_BYTES if path.suffix == ".jinja" else limit
    limit = MAX_VOCABULARY_BYTES if path.name in VOCABULARIES else limit
    if size > limit:
        raise ValueError(f"{folder}: {path.name} has {size:,} bytes; accepted: {limit:,} at most")


def _unsafe_key(path: Path) -> str:
    """Return the first key that asks for code, at any depth: a config may hold others, for its parts."""
    pending: list[tuple[Any, int]] = [(read_object(path), 1)]
    unsafe = ""
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{path} is nested more than {MAX_DEPTH} deep; refused")
        if isinstance(value, dict):
            unsafe = unsafe or next((key for key in UNSAFE_CONFIG_KEYS if key in value), "")
            pending.extend((part, depth + 1) for part in value.values() if isinstance(part, dict | list))
        elif isinstance(value, list):
            pending.extend((part, depth + 1) for part in value if isinstance(part, dict | list))
    return unsafe


def _refuse_far_shards(folder: Path, index: Path) -> None:
    """Refuse an index that names files elsewhere: those that hold the weights lie beside it."""
    weight_map = read_object(index).get("weight_map", {})
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{folder}: {index.name} has no weight_map of names to files; refused")
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{folder}: {index.name} names {shard}, which is not a file beside it; refused")


def _refuse_outsized(folder: Path) -> None:
    pending: list[dict[str, Any]] = [read_object(folder / "config.json")]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            for kind, names in COUNT_NAMES.items():
                # nets of several widths count theirs by width
                counts = value if isinstance(value, list) else [value]
                count = sum(number for number in counts if isinstance(number, int | float))
                if names.fullmatch(key) and count > MAX_COUNTS[kind]:
                    raise ValueError(
                        f"{folder}: config.json says {key} {count:g}; accepted: {MAX_COUNTS[kind]:,} {kind}s at most"
                    )


def refuse_other_kinds(folder: Path) -> None:
    """Raise ValueError unless the folder holds a causal language model with its head. transformers would make one up around an encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # a second at import

    config = read_object(folder / "config.json")
    known = {
        name
        for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in (names if isinstance(names, tuple) else (names,))
    }
    architectures, family = config.get("architectures") or [], config.get("model_type")
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise ValueError(f"{folder}: architectures in config.json is no list of names")
    if config.get("is_encoder_decoder"):
        raise ValueError(f"{folder} is an encoder-decoder ({family}); only causal language models are taken")
    if architectures and not set(architectures) & known:
        named = {
            "ForSequenceClassification": "a classifier of texts comes in with model {kind: classifier}",
            "ForTokenClassification": "a tagger of words comes in with model {kind: tagger}",
        }
        other = "a sentence encoder comes in with model {kind: encoder}"
        kind = next((words for ending, words in named.items() if str(architectures[0]).endswith(ending)), other)
        hint = f"; {kind}" if family in ENCODER_FAMILIES else ""
        raise ValueError(f"{folder} is a {architectures[0]}, not a causal language model; only those are taken{hint}")
    if not isinstance(family, str) or family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{folder}: model type {family!r} is no causal language model that transformers knows")
