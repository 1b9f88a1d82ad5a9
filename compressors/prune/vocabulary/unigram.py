"""A unigram model without some of its pieces. The best of all cuts stays the best among fewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attar.compressors.prune.vocabulary.alphabet import SPACE, byte_tokens, characters_among


@dataclass(frozen=True)
class Unigram:
    """A text is cut so that the sum of its pieces' log-probabilities is largest. https://arxiv.org/abs/1804.10959

    What is unknown costs the lowest of all scores and ten: the piece that has it stays, or other cuts would win.
    """

    content: Mapping[str, Any]

    @property
    def ids(self) -> dict[str, int]:
        """The pieces with their ids, which are their places in the list."""
        return self._ids

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: index for index, (piece, _) in enumerate(self.content["vocab"])}

    def always(self) -> set[str]:
        """Return what any text can fall back to: bytes, or else single characters; the unknown and the lowest piece."""
        vocabulary, unknown = self.content["vocab"], self.content.get("unk_id")
        has_bytes = bool(self.content.get("byte_fallback"))
        alphabet = byte_tokens(self.ids) | ({SPACE} & self.ids.keys()) if has_bytes else characters_among(self.ids)
        lowest = min(vocabulary, key=lambda entry: entry[1])[0]
        return alphabet | {lowest} | (set() if unknown is None else {vocabulary[unknown][0]})

    def ancestors(self, token: str) -> set[str]:
        """Return nothing: a piece is looked up whole."""
        return set()

    def text(self, token: str) -> str | None:
        """Return what a piece writes."""
        return token.replace(SPACE, " ")

    def trimmed(self, new_ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these pieces alone, in the order of their new ids, each with its score."""
        scores = dict(map(tuple, self.content["vocab"]))
        own = sorted((token for token in new_ids if token in scores), key=lambda token: new_ids[token])
        unknown = self.content.get("unk_id")
        return {
            **self.content,
            "vocab": [[token, scores[token]] for token in own],
            "unk_id": None if unknown is None else new_ids[self.content["vocab"][unknown][0]],
        }
