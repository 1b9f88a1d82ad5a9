"""The order of training: every example once, or tokens by shares with nothing forgotten."""

from __future__ import annotations

from collections import Counter

import pytest

from attar.compressors.distill.examples.packing import Example
from attar.stages.finetune.training_rows import Mixture

# ten short examples of one source, forty longer ones of another
EXAMPLES = [Example([1], [2, 3, 4]) for _ in range(10)] + [Example([1], [2] * 7) for _ in range(40)]
SOURCES = [0] * 10 + [1] * 40


def test_without_shares_an_epoch_is_every_example_once_in_an_order_of_its_own() -> None:
    mixture = Mixture(EXAMPLES, SOURCES, [], seed=3)
    first, second = mixture(0), mixture(1)
    assert sorted(first) == sorted(second) == list(range(50)) and first != second
    assert first == Mixture(EXAMPLES, SOURCES, [], seed=3)(0) != Mixture(EXAMPLES, SOURCES, [], seed=4)(0)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [1.0, 4.0], [0.05, 0.95]])
def test_shares_are_shares_of_tokens(shares: list[float]) -> None:
    order = Mixture(EXAMPLES, SOURCES, shares, seed=0)(0)
    tokens = Counter()
    for index in order:
        tokens[SOURCES[index]] += EXAMPLES[index].num_tokens
    assert tokens[0] / sum(tokens.values()) == pytest.approx(shares[0] / sum(shares), abs=0.02)
    assert max(Counter(order).values()) == 1, "nothing comes twice before a source is used up"


def test_a_source_that_is_not_used_up_goes_on_in_the_next_epoch() -> None:
    """At equal shares an epoch takes all 40 tokens of the first source and 5 of the second's 40 examples."""
    mixture = Mixture(EXAMPLES, SOURCES, [0.5, 0.5], seed=0)
    epochs = [[index for index in mixture(epoch) if SOURCES[index] == 1] for epoch in range(8)]
    assert [len(epoch) for epoch in epochs] == [5] * 8
    assert sorted(index for epoch in epochs for index in epoch) == list(range(10, 50)), "eight epochs see each once"
    assert {index for index in mixture(0) if SOURCES[index] == 0} == set(range(10))


def test_a_share_of_an_empty_source_is_refused() -> None:
    with pytest.raises(ValueError, match="data 2 of 2 has no training rows, but a share"):
        Mixture(EXAMPLES[:10], [0] * 10, [0.5, 0.5], seed=0)(0)
