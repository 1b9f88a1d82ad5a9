"""Which tokens stay. What must, then what the corpus uses most, then the tokenizer's own order, up to a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from attar.compressors.prune.vocabulary.document import PieceModel


@dataclass(frozen=True)
class Selection:
    """The choice among a tokenizer's tokens, `ids` by token. `rows`: how many of them the model has rows for."""

    pieces: PieceModel
    ids: Mapping[str, int]
    rows: int
    # by id, whatever the corpus is: special and added tokens, those of the chat template, those that configs name
    named: frozenset[int]

    @cached_property
    def required(self) -> frozenset[int]:
        """The ids that stay in any case, with all that they are merged from."""
        always = {self.ids[token] for token in self.pieces.always()}
        return frozenset(self._with_ancestors(always | (self.named & self._tokens.keys())))

    def used(self, indices: Iterable[int]) -> set[int]:
        """Return what these tokens take: themselves, what they are merged from, what is required."""
        return set(self.required) | self._with_ancestors(indices)

    def best(self, counts: Mapping[int, int], num_tokens: int, preferred: Iterable[int] = ()) -> set[int]:
        """Return ids with exactly `num_tokens` rows: required, the corpus's by falling count, preferred, the tokenizer's first.

        A token that does not fit with what it is merged from is passed over. Raises ValueError, naming the least, for too few.
        """
        chosen = self._in_rows(self.required)
        if num_tokens < len(chosen):
            raise ValueError(
                f"num_tokens is {num_tokens}, but bytes, special tokens and the chat template take {len(chosen)} tokens; "
                f"accepted: {len(chosen)} to {self.rows}"
            )
        order = [*by_count(counts), *sorted(preferred), *sorted(self._tokens)]
        while len(chosen) < num_tokens:  # what did not fit with its ancestors fits once these are there
            size = len(chosen)
            for index in order:
                family = self._in_rows(self._with_ancestors([index])) - chosen
                if len(chosen) + len(family) <= num_tokens:
                    chosen |= family
            if len(chosen) == size:
                raise ValueError(f"num_tokens is {num_tokens}, but the tokenizer has {size}; accepted: fewer")
        return chosen | self.required

    def _with_ancestors(self, indices: Iterable[int]) -> set[int]:
        closed: set[int] = set()
        for index in indices:
            if index not in closed:
                closed |= self._family(index)
        return closed

    def _family(self, index: int) -> frozenset[int]:
        """Return a token with all that it is merged from."""
        if index not in self._families:
            ancestors = self.pieces.ancestors(self._tokens[index])
            self._families[index] = frozenset({index, *(self.ids[token] for token in ancestors)})
        return self._families[index]

    @cached_property
    def _families(self) -> dict[int, frozenset[int]]:
        return {}

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {index: token for token, index in self.ids.items()}

    def _in_rows(self, indices: Iterable[int]) -> set[int]:
        return {index for index in indices if index < self.rows}


def by_count(counts: Mapping[int, int]) -> list[int]:
    """Return the ids that occur, the most frequent first, of equal ones the lowest."""
    return sorted((index for index, count in counts.items() if count), key=lambda index: (-counts[index], index))


def renumbering(chosen: Iterable[int]) -> dict[int, int]:
    """Return the new id of each kept old one: their order stays."""
    return {old: new for new, old in enumerate(sorted(chosen))}
