"""Selection of images without labels: the surest of each class, and how far a hash is from protected ones."""

from __future__ import annotations

import numpy as np
import torch

from attar.compressors.images.selection import CHUNK, nearest, top_per_class


def test_the_surest_of_each_class_stay_and_not_the_surest_of_all() -> None:
    # sure of class 0 many times, of class 1 hardly: both classes stay
    logits = torch.tensor([[9.0, 0.0], [8.0, 0.0], [7.0, 0.0], [0.0, 0.1], [0.0, 0.3], [0.0, 0.2]])
    assert top_per_class(logits, 2) == [0, 1, 4, 5]
    assert top_per_class(logits, 9) == list(range(6))
    assert top_per_class(torch.zeros(5, 3), 2) == [0, 1], "ties go to the earlier image"
    # a logit is no sureness: what counts is the probability
    assert top_per_class(torch.tensor([[50.0, 49.9], [2.0, 0.0]]), 1) == [1]


def test_distances_are_bits_to_the_nearest_protected_code() -> None:
    protected = np.array([0, 2**64 - 1], dtype=np.uint64)
    codes = np.array([0b111, 2**64 - 2, 0], dtype=np.uint64)
    distances, indices = nearest(codes, protected)
    assert distances.tolist() == [3, 1, 0] and indices.tolist() == [0, 1, 0]


def test_chunks_change_nothing() -> None:
    generator = np.random.default_rng(0)
    codes, protected = (generator.integers(0, 2**63, count, dtype=np.uint64) for count in (CHUNK + 5, 7))
    distances, indices = nearest(codes, protected)
    for index in (0, CHUNK - 1, CHUNK, CHUNK + 4):
        own = [bin(int(codes[index]) ^ int(other)).count("1") for other in protected]
        assert distances[index] == min(own) and indices[index] == own.index(min(own))
