"""WordPiece without some of its pieces. The longest match that is taken stays the longest of fewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attar.compressors.prune.vocabulary.alphabet import characters_among


@dataclass(frozen=True)
class WordPiece:
    """A word is cut from its left, each time by the longest piece that fits. One that nothing fits is unknown whole."""

    content: Mapping[str, Any]

    @property
    def ids(self) -> dict[str, int]:
        """The pieces with their ids."""
        return self._ids

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(self.content["vocab"])

    def always(self) -> set[str]:
        """Return all single characters, at a word's beginning and within it, and the unknown piece."""
        unknown = {token for token in (self.content.get("unk_token"),) if token in self.ids}
        return characters_among(self.ids, self._prefix) | unknown

    def ancestors(self, token: str) -> set[str]:
        """Return nothing: a piece is looked up whole."""
        return set()

    def text(self, token: str) -> str | None:
        """Return what a piece writes."""
        return token.removeprefix(self._prefix)

    def trimmed(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these pieces alone."""
        own = {token: index for token, index in new_ids.items() if token in self.ids}
        return {**self.content, "vocab": dict(sorted(own.items(), key=lambda entry: entry[1]))}

    @property
    def _prefix(self) -> str:
        return self.content.get("continuing_subword_prefix") or ""
