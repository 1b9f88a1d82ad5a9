"""Exact and near duplicates: MinHash with locality-sensitive hashing finds the pairs, their exact Jaccard similarity decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.compressors.data.ngrams import ngrams, words

# A missed pair cannot be found again, a false one costs one exact comparison.
RECALL_FIRST = (0.1, 0.9)


@dataclass(frozen=True)
class Duplicate:
    """Which earlier text this one repeats, and how closely: Jaccard similarity in (0, 1], 1 when equal but for case and spaces."""

    of: int
    similarity: float
    is_exact: bool


def find_duplicates(
    texts: Sequence[str], *, threshold: float, shingle_words: int = 3, num_hashes: int = 128
) -> dict[int, Duplicate]:
    """Return the texts that repeat an earlier text that is itself none, by index; the first of its kind stays.

    Jaccard(a, b) = |S_a & S_b| / |S_a | S_b| over the sets S of runs of `shingle_words` words; at or above `threshold` it is a duplicate,
    at 1.0 only equal texts are. Near duplicates by MinHash: https://doi.org/10.1109/SEQUEN.1997.666900
    """
    found: dict[int, Duplicate] = {}
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        original = first.setdefault(" ".join(text.casefold().split()), index)
        if original != index:
            found[index] = Duplicate(original, 1.0, is_exact=True)
    if threshold < 1.0:
        found |= _near(texts, sorted(first.values()), threshold, shingle_words, num_hashes)
    # an exact copy of a near duplicate repeats what that one repeats
    return {index: _followed(one, found) for index, one in sorted(found.items())}


def shingles(text: str, num_words: int) -> set[str]:
    """Return the runs of `num_words` words of a text; a shorter text is one run."""
    sequence = words(text)
    return set(ngrams(sequence, num_words)) or {" ".join(sequence)}


def jaccard(left: set[str], right: set[str]) -> float:
    """Return |left & right| / |left | right|."""
    return len(left & right) / len(left | right)


def _near(
    texts: Sequence[str], indices: Sequence[int], threshold: float, shingle_words: int, num_hashes: int
) -> dict[int, Duplicate]:
    sets = [shingles(texts[index], shingle_words) for index in indices]
    from datasketch import MinHash, MinHashLSH  # brings a client for redis, and only curation needs it

    hashes = MinHash.generator(([run.encode() for run in sorted(one)] for one in sets), num_perm=num_hashes)
    table = MinHashLSH(threshold=threshold, num_perm=num_hashes, weights=RECALL_FIRST)
    kept: dict[int, set[str]] = {}
    found: dict[int, Duplicate] = {}
    for index, own, signature in zip(indices, sets, hashes, strict=True):
        candidates = (other for other in table.query(signature) if isinstance(other, int))
        # the closest, then the earliest
        similar = max(((jaccard(own, kept[other]), -other) for other in candidates), default=(0.0, 0))
        # words leave out punctuation: texts without any word are no evidence
        if similar[0] >= threshold and own != {""}:
            found[index] = Duplicate(-similar[1], similar[0], is_exact=False)
        else:
            table.insert(index, signature)
            kept[index] = own
    return found


def _followed(one: Duplicate, found: dict[int, Duplicate]) -> Duplicate:
    return found.get(one.of, one)
