"""Byte-pair encoding without some of its tokens. What a token is merged from stays with it, so that texts of kept tokens are cut as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from attar.compressors.prune.vocabulary.alphabet import (
    SPACE,
    byte_characters,
    byte_tokens,
    bytes_text,
    characters_among,
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bpe:
    """A word is its characters, and the adjacent pair of the lowest rank is joined until no pair has one.

    A run over fewer merges goes the same way as long as every token that it forms is still there: each step's choice is still the
    best. What it forms on the way to a token is what it forms on that token alone. https://arxiv.org/abs/1508.07909
    """

    content: Mapping[str, Any]
    # the tokens are bytes, each written as a character
    is_byte_level: bool

    @property
    def ids(self) -> dict[str, int]:
        """The tokens with their ids."""
        return self._ids

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(self.content["vocab"])

    def always(self) -> set[str]:
        """Return what any text can fall back to: bytes, or single characters where there are none, and the unknown token."""
        if self.is_byte_level:
            alphabet = set(byte_characters()) & self.ids.keys()
        elif self.content.get("byte_fallback"):
            alphabet = byte_tokens(self.ids) | ({SPACE} & self.ids.keys())
        else:
            alphabet = characters_among(self.ids, self._prefix, self._suffix)
        return alphabet | {token for token in (self.content.get("unk_token"),) if token in self.ids}

    def ancestors(self, token: str) -> set[str]:
        """Return what is formed on the way to a token. Empty for a token that no merge reaches, which is only ever taken whole."""
        symbols = self._symbols(token)
        formed = set(symbols)
        while len(symbols) > 1:
            ranked = [(self._ranks[pair], index) for index, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
            if not ranked:
                return set()
            index = min(ranked)[1]
            symbols[index : index + 2] = [self._joined(symbols[index], symbols[index + 1])]
            formed.add(symbols[index])
        return (formed - {token}) & self.ids.keys() if symbols == [token] else set()

    def text(self, token: str) -> str | None:
        """Return what a token writes; None where that is a part of a character."""
        if self.is_byte_level:
            return bytes_text(token)
        return token.removeprefix(self._prefix).removesuffix(self._suffix).replace(SPACE, " ")

    def trimmed(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these tokens alone, and the merges that lead from them to them."""
        merges = [
            merge
            for merge, (first, second) in zip(self.content["merges"], self._pairs, strict=True)
            if first in new_ids and second in new_ids and self._joined(first, second) in new_ids
        ]
        own = {token: index for token, index in new_ids.items() if token in self.ids}
        return {**self.content, "vocab": dict(sorted(own.items(), key=lambda entry: entry[1])), "merges": merges}

    @property
    def _prefix(self) -> str:
        return self.content.get("continuing_subword_prefix") or ""

    @property
    def _suffix(self) -> str:
        return self.content.get("end_of_word_suffix") or ""

    @cached_property
    def _pairs(self) -> list[Pair]:
        """The merges in order; older files write each as a text with a space."""
        parts = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in self.content["merges"])
        return [(first, second) for first, second in parts]

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self._pairs)}

    def _joined(self, first: str, second: str) -> str:
        return first + second[len(self._prefix) :]

    def _symbols(self, token: str) -> list[str]:
        """Return the characters that a token begins as: all but a word's first with the prefix, its last with the suffix."""
        prefix, suffix = self._prefix, self._suffix
        is_continued = bool(prefix) and token.startswith(prefix) and len(token) > len(prefix)
        is_last = bool(suffix) and token.endswith(suffix) and len(token) > len(suffix)
        letters = list(token[len(prefix) if is_continued else 0 : len(token) - (len(suffix) if is_last else 0)])
        symbols = [(prefix if index or is_continued else "") + letter for index, letter in enumerate(letters)]
        if is_last:
            symbols[-1] += suffix
        return symbols
