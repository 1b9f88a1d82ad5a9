"""A byte-level tokenizer out of a GGUF header, for families and vocabularies that transformers' own reader does not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attar.stages.artifacts.gguf.pre_tokenizers import pre_tokenizer_of
from attar.stages.artifacts.gguf.vocabulary import CONTROL, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from gguf import GGUFReader  # in an extra

SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def has_merges(reader: GGUFReader) -> bool:
    """Say whether a file's merges make tokens. One that makes none stands for a tokenizer without merges."""
    merges = _list(reader, "merges")
    if len(merges) != 1:
        return bool(merges)
    return merges[0].replace(" ", "", 1) in set(_list(reader, "tokens"))


def byte_level_tokenizer(reader: GGUFReader) -> Any:
    """Return the tokenizer of a file. Raises ValueError for one that is not byte-level, or whose cuts have no known name."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors  # seconds with transformers
    from transformers import PreTrainedTokenizerFast  # a second that a plan need not wait for

    kind = _value(reader, "model")
    if kind != "gpt2":
        raise ValueError(f"its tokenizer is a {str(kind)[:40]!r}; accepted of this family: gpt2")
    tokens, kinds = _list(reader, "tokens"), _list(reader, "token_type")
    merges = [tuple(merge.split(" ")) for merge in _list(reader, "merges")] if has_merges(reader) else []
    # rows without a token have names that would be tokens; a gap in the ids is none of the library's worries
    vocab = {token: index for index, token in enumerate(tokens) if not kinds or kinds[index] != UNUSED}
    first_cut, ignores_merges = pre_tokenizer_of(str(_value(reader, "pre")))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignores_merges))
    inner.pre_tokenizer, inner.decoder = first_cut, decoders.ByteLevel()  # type: ignore[assignment]
    for index, token in enumerate(tokens):
        if kinds and kinds[index] in (CONTROL, USER_DEFINED):
            is_special = kinds[index] == CONTROL
            added = AddedToken(token, normalized=False, special=is_special)
            inner.add_special_tokens([added]) if is_special else inner.add_tokens([added])
    ids = {name: _value(reader, f"{key}_token_id") for name, key in SPECIAL.items()}
    named = {name: tokens[int(index)] for name, index in ids.items() if index is not None}
    ends = [named.get("bos_token") if _value(reader, "add_bos_token") else None]
    ends += [named.get("eos_token") if _value(reader, "add_eos_token") else None]
    if any(ends):
        template = " ".join(filter(None, [ends[0], "$A", ends[1]]))
        used = [(token, vocab[token]) for token in filter(None, ends)]
        inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    template = reader.fields.get("tokenizer.chat_template")
    tokenizer.chat_template = None if template is None else template.contents()
    return tokenizer


def _value(reader: GGUFReader, name: str) -> Any:
    field = reader.fields.get(f"tokenizer.ggml.{name}")
    return None if field is None else field.contents()


def _list(reader: GGUFReader, name: str) -> Sequence[Any]:
    return _value(reader, name) or []
