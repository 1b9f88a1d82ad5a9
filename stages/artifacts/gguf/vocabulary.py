"""A tokenizer as GGUF says it: tokens with their types, merges or scores, special tokens, chat templates."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.stages.artifacts.gguf.pre_tokenizers import pre_tokenizer_name
from attar.stages.artifacts.model.tokenizer_files import tokenizer_document
from attar.stages.artifacts.model.turn_end import all_ends

if TYPE_CHECKING:
    from gguf import GGUFWriter  # in an extra

# Kinds of tokens, by llama.cpp's numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
# Of a token that text never becomes; llama.cpp's converter gives the same.
NO_SCORE = -1000.0


@dataclass(frozen=True)
class Pieces:
    """What a model of words says: names of it and of its first cuts, merges or scores, settings by key."""

    model: str
    pre: str
    merges: tuple[str, ...] = ()
    # of every token that has a score of its own
    scores: Mapping[str, float] | None = None
    settings: Mapping[str, bool | bytes] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as it is written. Tokens are as many as the embedding has rows."""

    pieces: Pieces
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    # the name of a special token in GGUF -> its id
    special: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    # the template by its name, the usual one without
    chat_templates: Mapping[str, str]

    def add_to(self, writer: GGUFWriter) -> None:
        """Add the tokenizer to a file that is being written."""
        writer.add_tokenizer_model(self.pieces.model)
        writer.add_tokenizer_pre(self.pieces.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.pieces.scores is not None:
            writer.add_token_scores([self.pieces.scores.get(token, NO_SCORE) for token in self.tokens])
        if self.pieces.model == "gpt2":
            writer.add_token_merges(self.pieces.merges or _no_merge(self.tokens))
        for name, index in self.special.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        for name, value in (self.pieces.settings or {}).items():
            if isinstance(value, bool):
                writer.add_bool(f"tokenizer.ggml.{name}", value)
            else:
                writer.add_precompiled_charsmap(value)
        for name, template in self.chat_templates.items():
            writer.add_string(f"tokenizer.chat_template{'.' + name if name else ''}", template)
        # gguf-py's own writer lists the names in the order of a set, which is another in every process
        writer.add_array("tokenizer.chat_templates", sorted(filter(None, self.chat_templates)))


def vocabulary_of(tokenizer: Any, folder: Path, num_rows: int) -> Vocabulary:
    """Return a model's tokenizer as GGUF says it. Raises ValueError for a kind of words or cuts that llama.cpp does not have."""
    document = tokenizer_document(tokenizer)
    kind = document["model"]["type"]
    is_byte_level = kind == "BPE" and any(step == "ByteLevel" for step in _types(document.get("pre_tokenizer")))
    if is_byte_level:
        pieces = _byte_level(document)
    elif kind == "BPE" and document["model"].get("byte_fallback"):
        pieces = _sentencepiece(document)
    elif kind == "Unigram":
        pieces = _unigram(document)
    else:
        raise ValueError(
            f"gguf cannot say a {kind} tokenizer without {'byte_fallback' if kind == 'BPE' else 'merges or scores'}; "
            "accepted: byte-level BPE, SentencePiece, Unigram"
        )
    tokens, kinds = _tokens(document, num_rows, is_byte_level=is_byte_level)
    plain, added = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return Vocabulary(
        pieces=pieces,
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        special=_special(tokenizer, folder, num_rows),
        adds_bos=bos is not None and added[:1] == [bos] and plain[:1] != [bos],
        adds_eos=eos is not None and added[-1:] == [eos] and plain[-1:] != [eos],
        chat_templates=_templates(tokenizer),
    )


def _byte_level(document: Mapping[str, Any]) -> Pieces:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    return Pieces("gpt2", pre_tokenizer_name(document), tuple(merges), settings={"add_space_prefix": False})


def _sentencepiece(document: Mapping[str, Any]) -> Pieces:
    """Return scores that merge in the order of the merges: what is made first has the highest. https://github.com/google/sentencepiece"""
    scores: dict[str, float] = {}
    for rank, merge in enumerate(document["model"]["merges"]):
        made = merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        scores.setdefault(made, -float(rank))
    lowest = -float(len(scores) + 1)
    for token, index in document["model"]["vocab"].items():
        scores.setdefault(token, lowest - index)
    return Pieces("llama", "default", scores=scores, settings={"add_space_prefix": _has_prefix(document)})


def _unigram(document: Mapping[str, Any]) -> Pieces:
    scores = {token: float(score) for token, score in document["model"]["vocab"]}
    steps = list(_parts(document.get("normalizer"), "normalizers"))
    settings: dict[str, bool | bytes] = {
        "add_space_prefix": _has_prefix(document),
        "remove_extra_whitespaces": any("{2,}" in str(step.get("pattern")) for step in steps),
    }
    charsmap = next((step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"), None)
    if charsmap:
        settings["precompiled_charsmap"] = b64decode(charsmap)
    return Pieces("t5", "default", scores=scores, settings=settings)


def _has_prefix(document: Mapping[str, Any]) -> bool:
    """Say whether a space is put before the text."""
    spaces = [step for step in _parts(document.get("pre_tokenizer"), "pretokenizers") if step["type"] == "Metaspace"]
    schemes = [
        step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") for step in spaces
    ]
    prepends = any(step["type"] == "Prepend" for step in _parts(document.get("normalizer"), "normalizers"))
    return prepends or any(scheme != "never" for scheme in schemes)


def _tokens(document: Mapping[str, Any], num_rows: int, *, is_byte_level: bool) -> tuple[list[str], list[int]]:
    """Return the token of each row of the embedding and its kind. Rows without a token are named as llama.cpp's converter does."""
    model = document["model"]
    vocab = model["vocab"]
    words = vocab.items() if isinstance(vocab, Mapping) else ((token, index) for index, (token, _) in enumerate(vocab))
    tokens = [f"[PAD{index}]" for index in range(num_rows)]
    kinds = [UNUSED] * num_rows
    for token, index in words:
        if index < num_rows:
            is_byte = not is_byte_level and len(token) == 6 and token.startswith("<0x")
            tokens[index], kinds[index] = token, BYTE if is_byte else NORMAL
    unknown = model.get("unk_token") if isinstance(vocab, Mapping) else model.get("unk_id")
    index = vocab.get(unknown) if isinstance(vocab, Mapping) else unknown
    if index is not None and index < num_rows and not is_byte_level:
        kinds[index] = UNKNOWN
    for entry in document.get("added_tokens", []):
        if entry["id"] < num_rows and kinds[entry["id"]] != UNKNOWN:
            kinds[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
            # llama.cpp looks for these in the text as it was given
            tokens[entry["id"]] = entry["content"] if entry["special"] else entry["content"].replace(SPACE, " ")
    return tokens, kinds


def _special(tokenizer: Any, folder: Path, num_rows: int) -> dict[str, int]:
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        "mask": tokenizer.mask_token_id,
    }
    ends = [end for end in all_ends(tokenizer, folder) if end != ids["eos"]]
    if ends:  # what ends a turn where that is not the end of the text
        ids["eot"] = ends[0]
    return {name: int(index) for name, index in ids.items() if index is not None and index < num_rows}


def _templates(tokenizer: Any) -> dict[str, str]:
    given = getattr(tokenizer, "chat_template", None)
    if isinstance(given, Mapping):
        return {"" if name == "default" else re.sub(r"\W", "_", name): text for name, text in given.items()}
    return {"": given} if given else {}


def _no_merge(tokens: tuple[str, ...]) -> list[str]:
    """Return a merge that makes no token: an empty list cannot be written, and llama.cpp does not open a file without merges."""
    return [f"{tokens[-1]} {tokens[-1]}"]


def _types(given: Any) -> Iterator[str]:
    return (step["type"] for step in _parts(given, "pretokenizers"))


def _parts(given: Any, name: str) -> Iterator[Mapping[str, Any]]:
    if given is None:
        return
    if given["type"] == "Sequence":
        for inner in given[name]:
            yield from _parts(inner, name)
    else:
        yield given
