"""The files of a tokenizer, whatever its family. Which they are, copied whole, and kept to the tokens that the model has rows for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.weight_files import named

# Where the words are: a tokenizer without one of these knows none.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
    "sentencepiece.bpe.model",
    "*.spm",
    "*.tiktoken",
)
# Everything that a tokenizer of any family may read: second templates and sentencepiece models too.
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "bpe.codes",
    "*.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
# Where a tokenizer that is kept to its model's rows says which tokens those leave out.
BEYOND = "attar_tokens_without_row"
CONFIG_FILES = ("config.json", "generation_config.json")
# A probe of scripts, spaces and digits: what two readings of one tokenizer must cut alike.
PROBE = "The  quick\tbrown fox: 12,345.678 naïve Größe Ελλάδα Привет 你好 مرحبا नमस्ते 🙂👩‍👩‍👧\n\n    def f(x):\n"


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder's tokenizer and templates, relative to it."""
    paths = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder) for path in paths if path.suffix != ".safetensors")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer unchanged: writing them again would change them a little each time."""
    _copy(source, folder, tokenizer_files(source))


def add_tokenizer_files(source: Path, folder: Path) -> None:
    """Copy what a tokenizer's writer left out, such as the sentencepiece model that other programs read."""
    _copy(source, folder, (path for path in tokenizer_files(source) if not (folder / path).exists()))


def companion_bytes(folder: Path) -> int:
    """Return the bytes of what lies beside a model's weights and goes where it goes: config and tokenizer."""
    names = [*tokenizer_files(folder), *CONFIG_FILES]
    return sum((folder / name).stat().st_size for name in names if (folder / name).exists())


def tokenizer_document(tokenizer: Any) -> dict[str, Any]:
    """Return a loaded tokenizer as its JSON document. Raises ValueError for one that the `tokenizers` library does not run."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no tokenizer.json and cannot be trimmed; "
            "accepted: BPE, Unigram or WordPiece of the tokenizers library"
        )
    return json.loads(backend.to_str())


def refuse_no_tokenizer(folder: Path) -> None:
    """Raise ValueError when a folder has no vocabulary: for some families transformers would make up an empty tokenizer."""
    if not any(path.is_file() for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        raise ValueError(f"{folder} has no tokenizer: none of {', '.join(VOCABULARY_FILES)} is there")


def refuse_changed_tokens(before: Any, after: Any) -> None:
    """Raise ValueError when a tokenizer that was written and read again has other words, ends, templates or cuts."""
    words = before.get_vocab()
    text = PROBE + "".join(token for token in before.all_special_tokens if token in words)
    pairs = {
        "words": (words, after.get_vocab()),
        "first and last tokens": tuple(
            (each.bos_token_id, each.eos_token_id, each.pad_token_id) for each in (before, after)
        ),
        "chat templates": (before.chat_template, after.chat_template),
        "cuts of a probe": (_cut(before, text), _cut(after, text)),
    }
    changed = [name for name, (was, now) in pairs.items() if was != now]
    if changed:
        raise ValueError(f"the tokenizer does not survive being saved: other {', '.join(changed)} when read again")


def _cut(tokenizer: Any, text: str) -> list[int]:
    try:
        return tokenizer(text).input_ids
    except Exception as error:  # a library's own, of any kind: settings or words that do not fit together
        raise ValueError(
            f"the tokenizer cannot cut a probe of scripts, spaces and digits: {one_line(error)}"
        ) from error


def num_rows(folder: Path) -> int | None:
    """Return how many rows the embedding of a folder's model has, as its config says; None where it does not."""
    config = read_object(folder / "config.json") if (folder / "config.json").exists() else {}
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def without_rows(tokenizer: Any) -> dict[int, str]:
    """Return by id the tokens that a tokenizer knows and its model has no row for. Gemma's text models have an image token so."""
    return dict(getattr(tokenizer, BEYOND, {}))


def keep_to_rows(tokenizer: Any, rows: int | None) -> Any:
    """Return the tokenizer, refusing by ValueError any text that has a token without a row. Its id would point behind the embedding."""
    if rows is None or without_rows(tokenizer):
        return tokenizer
    beyond = {index: token for token, index in tokenizer.get_vocab().items() if index >= rows}
    if not beyond:
        return tokenizer
    encode, vocabulary = tokenizer._encode_plus, tokenizer.get_vocab

    def checked(*texts: Any, **options: Any) -> Any:
        encoded = encode(*texts, **options)
        used = sorted({beyond[index] for index in _flat(encoded["input_ids"]) if index in beyond})
        if used:
            raise ValueError(
                f"the text contains {named([repr(token) for token in used], 'tokens')}, for which the model has no embedding row ({rows} rows)"
            )
        return encoded

    # on the object: every way from text to ids, that of other libraries too, passes here
    tokenizer._encode_plus = checked
    setattr(tokenizer, BEYOND, beyond)
    tokenizer.get_vocab = lambda: {token: index for token, index in vocabulary().items() if index not in beyond}
    return tokenizer


def _copy(source: Path, folder: Path, names: Iterable[Path]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, folder / name)


def _flat(ids: Any) -> Iterable[int]:
    """Yield token ids out of a list, a list of lists, or an array of either."""
    for part in ids.tolist() if hasattr(ids, "tolist") else ids:
        if isinstance(part, int):
            yield part
        else:
            yield from _flat(part)
