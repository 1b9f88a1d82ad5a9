"""Laws of the methods that choose experts, over their whole table: what is equal, dead or renamed must count so."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.models.experts import Routing, moe_layers
from attar.compressors.prune.experts.cut import cut_experts, fold_merged
from attar.compressors.prune.experts.methods import EXPERT_METHODS, Merge, assign, average_linkage, scores_of
from attar.compressors.prune.experts.scan import ExpertScan, Routed
from tests.expert_models import IDS, expert_model

SEEING = [name for name, method in EXPERT_METHODS.items() if method.source != "weights"]


def totals_of(model, *, is_dense: bool = True) -> list[Routed]:
    scan = ExpertScan(moe_layers(model), is_dense=is_dense)
    scan.update(model, IDS, torch.ones_like(IDS))
    return scan.totals


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
@pytest.mark.parametrize("name", EXPERT_METHODS)
def test_as_many_stay_in_every_group_in_order(name: str, family: str) -> None:
    model = expert_model(family)
    layers, method = moe_layers(model), EXPERT_METHODS[name]()
    for layer, routed in zip(layers, totals_of(model), strict=True):
        assignment = assign(method, layer, routed, 4)
        kept_experts = assignment.kept_experts
        assert len(kept_experts) == 4 and kept_experts.diff().min() > 0
        if family == "deepseek_v3":
            assert (kept_experts < 4).sum() == 2, "its router chooses among two groups of four"
        scores = scores_of(method, layer, routed)
        assert len(scores) == 8 and (scores >= 0).all()
        if assignment.shares is not None:
            torch.testing.assert_close(assignment.shares.sum(1), torch.ones(4, dtype=torch.float64))
            assert ((assignment.shares > 0).sum(0) <= 1).all(), "an expert goes into one other at most"


@pytest.mark.parametrize("name", SEEING)
def test_an_expert_that_no_token_goes_to_is_not_kept(name: str) -> None:
    model = expert_model("gpt_oss", num_blocks=1)
    layer = moe_layers(model)[0]
    with torch.no_grad():
        layer.router.bias[5] = -1e4
    (routed,) = totals_of(model)
    assert routed.counts[5] == 0 and (routed.counts.sort().values[1:] > 0).all(), "it alone was never chosen"
    assignment = assign(EXPERT_METHODS[name](), layer, routed, 7)
    if assignment.shares is None:
        assert 5 not in assignment.kept_experts.tolist()
    else:  # merged: it stays alone, or what it joins is not changed by it
        joined = assignment.shares[:, 5] > 0
        assert not joined.any() or (assignment.shares[joined] > 0).sum() == 1


@pytest.mark.parametrize("name", [name for name in EXPERT_METHODS if name != "random"])
def test_renamed_experts_are_judged_alike(name: str) -> None:
    model, order = expert_model("mixtral", num_blocks=1), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    layer, method = moe_layers(model)[0], EXPERT_METHODS[name]()
    (before,) = totals_of(model)
    scores, first = scores_of(method, layer, before), assign(method, layer, before, 5)
    with torch.no_grad():
        for _, _, tensor in layer.tensors():
            tensor.copy_(tensor[order].clone())
    (after,) = totals_of(model)
    torch.testing.assert_close(scores_of(method, layer, after), scores[order], rtol=1e-4, atol=1e-6)
    second = assign(method, layer, after, 5)
    assert sorted(order[second.kept_experts].tolist()) == first.kept_experts.tolist()


def test_reap_is_a_mean_and_frequency_a_sum() -> None:
    model = expert_model("mixtral", num_blocks=1)
    layer = moe_layers(model)[0]
    (once,), scan = totals_of(model, is_dense=False), ExpertScan([layer])
    for _ in range(3):
        scan.update(model, IDS, torch.ones_like(IDS))
    reap, frequency = EXPERT_METHODS["reap"](), EXPERT_METHODS["frequency"]()
    torch.testing.assert_close(scores_of(reap, layer, scan.totals[0]), scores_of(reap, layer, once), rtol=1e-6, atol=0)
    assert torch.equal(scores_of(frequency, layer, scan.totals[0]), 3 * scores_of(frequency, layer, once))


def test_equal_experts_become_one_and_nothing_else_changes() -> None:
    model = expert_model("mixtral", num_blocks=1)
    layer = moe_layers(model)[0]
    with torch.no_grad():
        for tensor in layer.experts.parameters():
            tensor[6] = tensor[2]
    before = [tensor.clone() for tensor in layer.experts.parameters()]
    (routed,) = totals_of(model)
    assignment = assign(Merge(), layer, routed, 7)
    pair = assignment.shares[:, [2, 6]]
    assert int((pair > 0).sum()) == 2 and int((pair.sum(1) > 0).sum()) == 1, "the two share one row"
    fold_merged([layer], [assignment])
    cut_experts(model, [layer], [assignment])
    for own, tensor in zip(before, layer.experts.parameters(), strict=True):
        torch.testing.assert_close(tensor, own[assignment.kept_experts], atol=1e-6, rtol=0)


def test_average_linkage_is_scipys() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    for seed in range(5):
        points = torch.randn(24, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tree = hierarchy.linkage(points.numpy(), method="average")
        for num_clusters in (1, 5, 12, 23, 24):
            labels = hierarchy.fcluster(tree, num_clusters, criterion="maxclust")
            expected = sorted(sorted(i for i in range(24) if labels[i] == label) for label in set(labels))
            assert sorted(average_linkage(torch.cdist(points, points), num_clusters)) == expected


@pytest.mark.parametrize(
    ("routing", "num_kept", "words"),
    [
        (Routing(8, 2), 1, "num_experts is 1, but a token goes to 2 experts; accepted: 2 to 7"),
        (Routing(8, 2), 8, "a block has 8 experts; accepted: 2 to 7"),
        (Routing(8, 2), 0, "a token goes to 2 experts"),
        (
            Routing(256, 8, 8, 4),
            100,
            r"chooses 8 experts among 4 of 8 equal groups; accepted: 16 to 248, multiples of 8",
        ),
        (Routing(8, 2, 2, 1, 2), 6, ""),
        (Routing(8, 2, 2, 1, 2), 2, r"a router|chooses 2 experts among 1 of 2 equal groups; accepted: 4, 6"),
        (Routing(2, 2), 1, "accepted: none, all must stay"),
    ],
)
def test_counts_that_a_router_cannot_choose_from_are_refused(routing: Routing, num_kept: int, words: str) -> None:
    if not words:
        routing.check(num_kept, "num_experts")
        return
    with pytest.raises(ValueError, match=words):
        routing.check(num_kept, "num_experts")
