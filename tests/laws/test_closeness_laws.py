"""Ratios of sums over texts by hand, what two students of the same texts are apart, and what folding, groups and magnitudes must hold."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from attar.compressors.measure.closeness import Sums, ratio_of_sums
from attar.compressors.merge.fold import check_fold
from attar.compressors.merge.group import MergeError, TensorGroup
from attar.compressors.merge.setting import TensorLocation
from attar.compressors.prune.depth.scores.magnitude import Magnitude


def test_a_ratio_of_sums_weighs_long_texts_more_and_needs_two_for_an_interval() -> None:
    estimate = ratio_of_sums([1.0, 8.0], [1.0, 2.0])
    assert estimate.value == 3.0, "not the mean of 1 and 4"
    assert (estimate.low, estimate.high) == (1.0, 4.0), "of two texts a resample is one of them twice, or both"
    alone = ratio_of_sums([3.0], [2.0])
    assert alone.value == 1.5 and math.isnan(alone.low) and math.isnan(alone.high)
    nothing = ratio_of_sums([0.0, 0.0], [0.0, 0.0])
    assert math.isnan(nothing.value) and math.isnan(nothing.low)


def test_the_interval_is_the_percentile_bootstraps() -> None:
    generator = np.random.default_rng(5)
    above, below = generator.random(200), generator.integers(1, 50, 200).astype(float)
    estimate = ratio_of_sums(above.tolist(), below.tolist())
    # the delta method's: the two agree where texts are many
    ratio = above.sum() / below.sum()
    spread = 1.96 * np.sqrt(((above - ratio * below) ** 2).sum()) / below.sum()
    assert estimate.low == pytest.approx(ratio - spread, rel=0.03) and estimate.high == pytest.approx(
        ratio + spread, rel=0.03
    )
    assert ratio_of_sums(above.tolist(), below.tolist()) == estimate, "the same texts, the same interval"
    assert ratio_of_sums(above.tolist(), below.tolist(), seed=1) != estimate


def test_sums_of_one_student_and_what_another_is_apart() -> None:
    first = Sums({"kl": [1.0, 3.0], "loss": [2.0, 2.0]}, [1.0, 1.0])
    second = Sums({"loss": [1.0, 0.0], "kl": [2.0, 5.0]}, [1.0, 1.0])
    assert {name: estimate.value for name, estimate in first.estimates().items()} == {"kl": 2.0, "loss": 2.0}
    apart = first.minus(second)
    assert {name: estimate.value for name, estimate in apart.items()} == {"kl": -1.5, "loss": 1.5}
    assert (apart["kl"].low, apart["kl"].high) == (-2.0, -1.0), "text by text: pairs are kept together"


LOGITS = torch.tensor([[0.0, -4.0, 2.0]])


@pytest.mark.parametrize(
    ("logits", "off", "is_accepted"),
    [
        (LOGITS, 0.5, True),  # an eighth of the largest logit, 4
        (LOGITS, 0.5625, False),
        (LOGITS / 8, 0.125, True),  # logits below 1 count as 1
        (LOGITS / 8, 0.1875, False),
    ],
)
def test_a_fold_may_be_off_by_a_share_of_the_largest_logit(logits: torch.Tensor, off: float, is_accepted: bool) -> None:
    folded = logits + torch.tensor([[0.0, off, 0.0]])
    if is_accepted:
        assert check_fold(logits, folded, logits - 1.0, 0.125) == (off, 1.0 + off)
        return
    allowed = "0.5" if logits is LOGITS else "0.125"
    message = f"folded logits differ from the adapter's by {off:.3g} (allowed {allowed})"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_fold(logits, folded, logits - 1.0, 0.125)


def test_a_fold_that_changed_nothing_is_refused_whatever_its_dtype() -> None:
    message = "^folding changed nothing: the adapter is all zero, or was not applied$"
    for base in (LOGITS, LOGITS.bfloat16()):
        with pytest.raises(ValueError, match=message):
            check_fold(LOGITS, LOGITS, base, 0.1)
    with pytest.raises(ValueError, match="differ from the adapter's by nan"):
        check_fold(LOGITS * math.nan, LOGITS, LOGITS, 0.1)


def test_rows_of_a_group_are_the_models_alone_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.compressors.merge.group.CHUNK_ELEMENTS", 4)
    first, second = torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 12.0).reshape(2, 3).bfloat16()
    group = TensorGroup(TensorLocation("w"), (first, second), torch.full((2, 3), math.nan))
    chunks = list(group.chunks())
    assert [chunk.tolist() for chunk in chunks] == [[[0, 1, 2, 3], [6, 7, 8, 9]], [[4, 5], [10, 11]]]
    assert all(chunk.dtype == torch.float32 for chunk in chunks)
    broken = TensorGroup(TensorLocation("w"), (first, second * math.inf))
    with pytest.raises(MergeError, match=r"^w of student 2 holds a number that is not finite \(NaN or infinity\)$"):
        list(broken.chunks())


def test_magnitudes_are_added_up_without_rounding_and_vectors_do_not_count() -> None:
    """257 ones in bfloat16, which has no 257."""
    weights = [torch.ones(257, 1, dtype=torch.bfloat16), torch.full((3, 2), -0.5), torch.ones(100)]
    assert Magnitude()(weights) == 260.0
