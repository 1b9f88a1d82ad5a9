"""A tokenizer as the JSON document of the `tokenizers` library. Read for its tokens, and written again without some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attar.compressors.prune.vocabulary.bpe import Bpe
from attar.compressors.prune.vocabulary.unigram import Unigram
from attar.compressors.prune.vocabulary.wordpiece import WordPiece

Document = Mapping[str, Any]


class PieceModel(Protocol):
    """How a tokenizer cuts a word into tokens, and which tokens that takes."""

    @property
    def ids(self) -> dict[str, int]:
        """The model's own tokens with their ids; added tokens may be others."""
        ...

    def always(self) -> set[str]:
        """Return what must stay for any text to be written, and for kept texts to be cut as before."""
        ...

    def ancestors(self, token: str) -> set[str]:
        """Return what must stay for a token to be reached."""
        ...

    def text(self, token: str) -> str | None:
        """Return what a token writes; None where that is a part of a character."""
        ...

    def trimmed(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the model's part of the document with these tokens alone."""
        ...


MODELS: dict[str, Callable[[Document], PieceModel]] = {
    "BPE": lambda document: Bpe(document["model"], _is_byte_level(document)),
    "Unigram": lambda document: Unigram(document["model"]),
    "WordPiece": lambda document: WordPiece(document["model"]),
}


def piece_model(document: Document) -> PieceModel:
    """Return how the document's tokenizer cuts. Raises ValueError for a kind without a fallback for what it no longer knows."""
    kind = document["model"].get("type")
    if kind not in MODELS:
        raise ValueError(f"the tokenizer is of type {kind!r}, which cannot be trimmed; accepted: {', '.join(MODELS)}")
    return MODELS[kind](document)


def token_ids(document: Document, pieces: PieceModel) -> dict[str, int]:
    """Return every token with its id, the added ones too. Raises ValueError when two have one id."""
    ids = {**pieces.ids, **{token["content"]: token["id"] for token in document.get("added_tokens") or []}}
    if len(set(ids.values())) != len(ids):
        raise ValueError("two tokens of the tokenizer have one id; it cannot be renumbered")
    return ids


def named_tokens(document: Document) -> set[int]:
    """Return the ids that the document names beside its model: added tokens, those around a text, and the padding."""
    added = {token["id"] for token in document.get("added_tokens") or []}
    padding = document.get("padding") or {}
    return added | set(_ids_around(document.get("post_processor"))) | ({padding["pad_id"]} if padding else set())


def trimmed_document(document: Document, pieces: PieceModel, new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return the document with the tokens of `new_ids` alone (old id to new), renumbered wherever it names one."""
    own = {token: new_ids[index] for token, index in pieces.ids.items() if index in new_ids}
    added = [{**token, "id": new_ids[token["id"]]} for token in document.get("added_tokens") or []]
    padding = document.get("padding")
    return {
        **document,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _renumbered(document.get("post_processor"), new_ids),
        "padding": {**padding, "pad_id": new_ids[padding["pad_id"]]} if padding else None,
        "model": pieces.trimmed(own),
    }


def _is_byte_level(document: Document) -> bool:
    return any(_has_byte_level(document.get(part)) for part in ("pre_tokenizer", "normalizer"))


def _has_byte_level(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    inner = part.get("pretokenizers") or part.get("normalizers") or []
    return part.get("type") == "ByteLevel" or any(map(_has_byte_level, inner))


def _ids_around(part: Any) -> list[int]:
    """Return the ids in a post-processor: a template's special tokens, or BERT's and RoBERTa's separator and class token."""
    if not isinstance(part, Mapping):
        return []
    ids = [index for token in (part.get("special_tokens") or {}).values() for index in token["ids"]]
    ids += [part[name][1] for name in ("sep", "cls") if name in part]
    return ids + [index for inner in part.get("processors") or [] for index in _ids_around(inner)]


def _renumbered(part: Any, new_ids: Mapping[int, int]) -> Any:
    if not isinstance(part, Mapping):
        return part
    changed = dict(part)
    if part.get("special_tokens"):
        changed["special_tokens"] = {
            name: {**token, "ids": [new_ids[index] for index in token["ids"]]}
            for name, token in part["special_tokens"].items()
        }
    changed |= {name: [part[name][0], new_ids[part[name][1]]] for name in ("sep", "cls") if name in part}
    if part.get("processors"):
        changed["processors"] = [_renumbered(inner, new_ids) for inner in part["processors"]]
    return changed
