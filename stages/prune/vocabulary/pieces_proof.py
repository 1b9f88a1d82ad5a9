"""Whether a trimmed tokenizer cuts texts as the whole one does, and by how much where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.stages.prune.vocabulary.corpus import TEXTS_AT_ONCE
from attar.stages.runtime.progress import bar


@dataclass(frozen=True)
class Agreement:
    """Two tokenizers on the same texts. Texts of the same pieces, tokens that stayed, tokens that the trimmed one writes."""

    num_texts: int
    num_same_texts: int
    # texts that the trimmed tokenizer does not give back as the whole one does
    num_changed_texts: int
    num_tokens: int
    num_kept_tokens: int
    num_new_tokens: int
    # the first text that is cut otherwise
    example: str

    @property
    def coverage(self) -> float:
        """Share of the whole tokenizer's tokens, as often as they occur, that stayed."""
        return self.num_kept_tokens / max(1, self.num_tokens)

    @property
    def same_fraction(self) -> float:
        """Share of the texts that have the same pieces."""
        return self.num_same_texts / max(1, self.num_texts)

    @property
    def token_ratio(self) -> float:
        """Tokens that the trimmed tokenizer writes, divided by the whole one's."""
        return self.num_new_tokens / max(1, self.num_tokens)


def agreement(whole: Any, trimmed: Any, new_ids: Mapping[int, int], texts: Sequence[str], label: str) -> Agreement:
    """Cut every text by both. Pieces are the same when each id is the other's under `new_ids`, old to new."""
    counts, example = [0] * 6, ""
    counter = bar(label, len(texts), "texts")
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        batch = list(texts[start : start + TEXTS_AT_ONCE])
        pairs = zip(*(each(batch, add_special_tokens=False).input_ids for each in (whole, trimmed)), strict=True)
        for text, (old, new) in zip(batch, pairs, strict=True):
            mapped = [new_ids.get(index, -1) for index in old]
            is_same = mapped == new
            is_changed = not is_same and whole.decode(old) != trimmed.decode(new)
            num_kept = len(mapped) - mapped.count(-1)
            counts = [
                a + b for a, b in zip(counts, (1, is_same, is_changed, len(old), num_kept, len(new)), strict=True)
            ]
            example = example or ("" if is_same else text)
        counter.advance(len(batch))
    return Agreement(*counts, example=example)


def check_tokens(tokenizer: Any, expected: Mapping[str, int]) -> None:
    """Raise ValueError unless a written tokenizer gives every token the id of its row when others read it."""
    vocabulary = tokenizer.get_vocab()
    differing = sorted(token for token in {*vocabulary, *expected} if vocabulary.get(token) != expected.get(token))
    if differing:
        raise ValueError(
            f"trim_vocabulary: the written {type(tokenizer).__name__} gives {len(differing)} tokens another id when it is read again, "
            f"such as {differing[0]!r}; its kind is not taken"
        )
