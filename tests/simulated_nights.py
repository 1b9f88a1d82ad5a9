"""Nights of an evaluation that asks in blocks, thousands at once."""

from __future__ import annotations

import numpy as np

from attar.compressors.measure.betting import GIVE_UP, capital

LIMIT, LEVEL, NUM_NIGHTS = 0.1, 0.05, 2000
BLOCK = 8


def nights(drop: float, flips: float, num_questions: int, seed: int = 0) -> np.ndarray:
    """Nights of questions: 1 where the candidate lost an answer that its original has, -1 where it won one."""
    generator = np.random.default_rng(seed)
    shares = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    return generator.choice([1.0, -1.0, 0.0], p=shares, size=(NUM_NIGHTS, num_questions))


def sequential(drops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each night passed, and how many questions it took: `ask_in_blocks` for one check, all nights at once."""
    within = capital(LIMIT - drops, LIMIT - 1.0, LIMIT)
    past = capital(drops - LIMIT, -1.0 - LIMIT, LIMIT)
    ends = np.arange(BLOCK - 1, drops.shape[1], BLOCK)
    passed, failed = (np.maximum.accumulate(side, axis=1)[:, ends] >= 1 / LEVEL for side in (within, past))
    hopeless = (within[:, ends] < GIVE_UP) & (past[:, ends] < 1.0)
    first = [
        np.where(event.any(axis=1), ends[event.argmax(axis=1)] + 1, drops.shape[1] + 1)
        for event in (passed, failed, hopeless)
    ]
    stopped = np.minimum(np.minimum.reduce(first), drops.shape[1])
    return (first[0] <= stopped) & (first[1] > stopped), stopped
