"""Values at the edges of what is accepted: a whole opener, a vocabulary that is all frequent, guidance of scale 1."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.weights.token_weights import Opener
from attar.compressors.guidance.gap import Gap


def test_an_opener_of_all_the_entropy_is_the_whole_sequence() -> None:
    """In float32 a running sum may end below the sum: then the first token alone used to be taken."""
    for seed in range(200):
        entropy = 0.05 + 3.0 * torch.rand(200, generator=torch.Generator().manual_seed(seed))
        stats = TokenStats(torch.zeros(200, dtype=torch.long), (SampleFacts(),), student_entropy=entropy)
        assert int(Opener(entropy_fraction=1.0).mask(stats).sum()) == 200, seed
        lengths = [int(Opener(entropy_fraction=share).mask(stats).sum()) for share in (0.5, 0.99, 1.0)]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("num_entries", [16, 20, 40])
def test_a_vocabulary_that_frequent_entries_and_the_batch_cover_is_compared_whole(num_entries: int) -> None:
    chosen = VocabularySample.of([range(20)], num_entries=num_entries, vocab_size=20, seed=0)
    entries = chosen.entries(torch.arange(20))
    assert entries.ids.tolist() == list(range(20))
    assert entries.shift.tolist() == [0.0] * 20, "each entry stands for itself"


def test_without_guidance_there_is_no_gap_to_close() -> None:
    closed, opened = Gap(0.0, 0.0, 0.0, 0.0, 5), Gap(0.1, 0.0, 0.2, 0.0, 5)
    assert (closed.ratio, closed.reverse_ratio) == (0.0, 0.0)
    assert opened.ratio == opened.reverse_ratio == float("inf"), "no gate passes it"
    assert Gap(0.1, 0.4, 0.3, 0.6, 5).ratio == pytest.approx(0.25)
    assert Gap(0.1, 0.4, 0.3, 0.6, 5).reverse_ratio == pytest.approx(0.5)
