"""Token ids in configs, under another numbering: single ids, lists, and the sequences that generation forbids or forces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ID_ENDS = ("token_id", "token_ids", "token_index")
# Lists of ids from which those of cut tokens fall out: a token that is not there needs no suppressing.
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
# Sequences of ids that cannot be written once a token of theirs is gone.
FORBIDDEN = "bad_words_ids"
FORCED = "force_words_ids"
# [position, id] pairs, and pairs of (ids, weight) or a mapping of ids to it.
FORCED_AT = "forced_decoder_ids"
BIASED = "sequence_bias"
SIZES = ("vocab_size", "vocab_size_per_layer_input")


def named_ids(values: Mapping[str, Any]) -> set[int]:
    """Return the ids that a config names and that must stay: ends, beginnings, padding, what is forced."""
    ids: set[int] = set()
    for name, value in values.items():
        if name.endswith(ID_ENDS) or name == FORCED:
            ids |= set(_flat(value))
        elif name == FORCED_AT:
            ids |= {index for _, index in value or [] if index is not None}
    return ids


def renumbered(values: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return what changes in a config when its ids are those of `new_ids` (old to new). An id that is no kept token's becomes None."""
    changes = {}
    for name, value in values.items():
        if value is not None:
            new = _changed(name, value, new_ids)
            if new != value:
                changes[name] = new
    return changes


def resized(values: Mapping[str, Any], rows: int, num_tokens: int) -> dict[str, int]:
    """Return the sizes of a config that were those of its vocabulary, as they are now."""
    return {name: num_tokens for name in SIZES if values.get(name) == rows}


def _changed(name: str, value: Any, new_ids: Mapping[int, int]) -> Any:
    if name.endswith(ID_ENDS) or name == FORCED:
        return _mapped(value, new_ids)
    if name in SUPPRESSED:
        return [new_ids[index] for index in value if index in new_ids]
    if name == FORBIDDEN:
        return [_mapped(words, new_ids) for words in value if _are_kept(words, new_ids)] or None
    if name == FORCED_AT:
        return [[position, new_ids.get(index)] for position, index in value]
    if name == BIASED:
        pairs = value.items() if isinstance(value, Mapping) else value
        biased = [(_mapped(words, new_ids), weight) for words, weight in pairs if _are_kept(words, new_ids)]
        return (
            {tuple(words): weight for words, weight in biased}
            if isinstance(value, Mapping)
            else [list(pair) for pair in biased]
        )
    return value


def _mapped(value: Any, new_ids: Mapping[int, int]) -> Any:
    if isinstance(value, list | tuple):
        mapped = [_mapped(part, new_ids) for part in value]
        return [part for part in mapped if part is not None]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:  # -1 and -100 say that there is none
        return new_ids.get(value)
    return value


def _are_kept(words: Iterable[int], new_ids: Mapping[int, int]) -> bool:
    return all(index in new_ids for index in words)


def _flat(value: Any) -> list[int]:
    if isinstance(value, list | tuple):
        return [index for part in value for index in _flat(part)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else []
