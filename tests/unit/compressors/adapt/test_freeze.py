"""A freeze mask by names. The listed tensors and no others, and a refusal of a pattern that means none, or all."""

from __future__ import annotations

import pytest
from torch import nn

from attar.compressors.adapt.freeze import freeze_tensors


def net() -> nn.Module:
    model = nn.ModuleDict({"conv1": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "head": nn.Linear(2, 1)})
    model["head"].requires_grad_(False)
    return model


def test_the_named_tensors_and_no_others_are_frozen() -> None:
    model = net()
    assert freeze_tensors(model, ["conv*", "*.weight"]) == ["conv1.weight", "conv1.bias", "norm.weight"]
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["norm.bias"]
    assert freeze_tensors(net(), []) == []


@pytest.mark.parametrize(
    ("patterns", "line"),
    [
        (["conv2*"], r"adapt.freeze has 'conv2\*', which names none of the 4 tensors that learn; accepted: .*such as conv1.weight"),
        (["head.*"], "which names none of the 4 tensors that learn"),
        (["CONV1.*"], "which names none"),
        (["*"], r"adapt.freeze is \*, which leaves none of the 4 tensors to learn; accepted: a part of them"),
    ],
)  # fmt: skip
def test_a_pattern_that_means_none_or_all_is_refused(patterns: list[str], line: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=line):
        freeze_tensors(model, patterns)
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 4, "refused before anything is frozen"
