"""Exact and near duplicates: shared runs of words find the pairs, in large data MinHash does. Their exact Jaccard similarity decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from attar.compressors.data.ngrams import ngrams, words

# A missed pair cannot be found again, a false one costs one exact comparison.
RECALL_FIRST = (0.1, 0.9)
# Texts up to which a text is compared with all that share a run of words with it; hashing, which may miss a pair, is for more.
MAX_COMPARED = 2_000


@dataclass(frozen=True)
class Duplicate:
    """Which earlier text this one repeats, and how closely. Jaccard similarity in (0, 1], 1 when equal but for case and spaces."""

    of: int
    similarity: float
    is_exact: bool


def find_duplicates(
    texts: Sequence[str],
    *,
    threshold: float,
    shingle_words: int = 3,
    num_hashes: int = 128,
    max_compared: int = MAX_COMPARED,
) -> dict[int, Duplicate]:
    """Return the texts that repeat an earlier text that is itself none, by index; the first of its kind stays.

    Jaccard(a, b) = |S_a & S_b| / |S_a | S_b| over the sets S of runs of `shingle_words` words; at or above `threshold` it is a duplicate,
    at 1.0 only equal texts are. Near duplicates of more than `max_compared` texts by MinHash with `num_hashes` permutations:
    https://doi.org/10.1109/SEQUEN.1997.666900
    """
    duplicates: dict[int, Duplicate] = {}
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        original = first.setdefault(" ".join(text.casefold().split()), index)
        if original != index:
            duplicates[index] = Duplicate(original, 1.0, is_exact=True)
    if threshold < 1.0:
        pairs = _SharedRuns() if len(first) <= max_compared else _Hashes(threshold, num_hashes)
        duplicates |= _near(texts, sorted(first.values()), threshold, shingle_words, pairs)
    # an exact copy of a near duplicate repeats what that one repeats
    return {index: _followed(duplicate, duplicates) for index, duplicate in sorted(duplicates.items())}


def shingles(text: str, num_words: int) -> set[str]:
    """Return the runs of `num_words` words of a text; a shorter text is one run."""
    sequence = words(text)
    return set(ngrams(sequence, num_words)) or {" ".join(sequence)}


def jaccard(left: set[str], right: set[str]) -> float:
    """Return |left & right| / |left | right|."""
    return len(left & right) / len(left | right)


class _Pairs(Protocol):
    """Where texts are looked up that may be alike."""

    def like(self, runs: set[str]) -> Iterable[int]:
        """Return the texts that may be alike to one of these runs of words."""
        ...

    def add(self, index: int, runs: set[str]) -> None:
        """Add a text, so that those alike are found."""
        ...


@dataclass
class _SharedRuns:
    """By each run of words: exact, since texts that share none have a similarity of 0."""

    _texts: dict[str, list[int]] = field(default_factory=dict)

    def like(self, runs: set[str]) -> Iterable[int]:
        return {index for run in runs for index in self._texts.get(run, ())}

    def add(self, index: int, runs: set[str]) -> None:
        for run in runs:
            self._texts.setdefault(run, []).append(index)


class _Hashes:
    """By MinHash with locality-sensitive hashing: few comparisons in data of any size."""

    def __init__(self, threshold: float, num_hashes: int) -> None:
        try:
            from datasketch import MinHash, MinHashLSH  # in an extra: brings scipy and a client for redis
        except ImportError as error:
            raise ValueError(
                f"near duplicates among more than {MAX_COMPARED:,} texts need datasketch: install attar[data]"
            ) from error
        self._empty = MinHash(num_perm=num_hashes)
        self._table = MinHashLSH(threshold=threshold, num_perm=num_hashes, weights=RECALL_FIRST)
        self._latest: tuple[set[str], Any] = (set(), self._empty)  # what was looked up is what is added next

    def like(self, runs: set[str]) -> Iterable[int]:
        return [index for index in self._table.query(self._signature(runs)) if isinstance(index, int)]

    def add(self, index: int, runs: set[str]) -> None:
        self._table.insert(index, self._signature(runs))

    def _signature(self, runs: set[str]) -> Any:
        if self._latest[0] is not runs:
            signature = self._empty.copy()
            signature.update_batch([run.encode() for run in sorted(runs)])
            self._latest = runs, signature
        return self._latest[1]


def _near(
    texts: Sequence[str], indices: Sequence[int], threshold: float, shingle_words: int, pairs: _Pairs
) -> dict[int, Duplicate]:
    duplicates: dict[int, set[str]] = {}
    by_index: dict[int, Duplicate] = {}
    for index in indices:
        own = shingles(texts[index], shingle_words)
        # the closest, then the earliest
        similar = max(((jaccard(own, duplicates[other]), -other) for other in pairs.like(own)), default=(0.0, 0))
        # words leave out punctuation: texts without any word are no evidence
        if similar[0] >= threshold and own != {""}:
            by_index[index] = Duplicate(-similar[1], similar[0], is_exact=False)
        else:
            pairs.add(index, own)
            duplicates[index] = own
    return by_index


def _followed(duplicate: Duplicate, duplicates: dict[int, Duplicate]) -> Duplicate:
    return duplicates.get(duplicate.of, duplicate)
