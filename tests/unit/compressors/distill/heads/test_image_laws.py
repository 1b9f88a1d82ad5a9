"""Laws of losses with heads of their own: which number a pair has, who is a target and gets no gradient, what a mask reads, what the mean is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.compressors.distill.heads.experts import (
    DiverseExperts,
    consistency,
    expert_loss,
    is_confident,
)
from attar.compressors.distill.heads.label_augmentation import (
    TRANSFORMS,
    LabelAugmentation,
    aggregated,
    joint_loss,
)
from attar.compressors.distill.heads.stages import StageHeads, agreement
from attar.compressors.distill.heads.views import ANSWERS, ImageObjective, ImageViews, heads_of
from attar.compressors.distill.losses.divergences.mixtures import JensenShannon
from attar.compressors.distill.losses.objective import Whole
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.traits import Drawn
from attar.compressors.images.within import Answer, NetShape
from attar.stages.finetune.objective_spec import ObjectiveSpec

ROWS, CLASSES, SIDE, WIDTH, INNER = 6, 3, 4, 5, 7
COUNTS = (90, 30, 3)
SHAPE = NetShape(CLASSES, 1, (SIDE, SIDE), WIDTH, (INNER,))


class TinyNet(nn.Module):
    """Pixels, an inner stage, features, logits: a product each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.end = nn.Linear(SIDE * SIDE, INNER), nn.Linear(INNER, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixels: Tensor) -> Answer:
        inner = self.inner(pixels.flatten(1)).tanh()
        features = self.end(inner)
        return Answer(self.head(features), features, (inner,))


def views_of(objective: ImageObjective, labels: Any = None, draws: tuple[int, ...] = (), seed: int = 0) -> Any:
    """A batch under a random net with heads that are not zero; (views, net, heads)."""
    torch.manual_seed(seed)
    net, heads = TinyNet(), nn.ModuleDict(heads_of({"own": objective}, SHAPE))
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_()
    pixels = torch.randn(ROWS, 1, SIDE, SIDE)
    labels = torch.arange(ROWS) % CLASSES if labels is None else torch.as_tensor(labels)
    return ImageViews(net(pixels), pixels, labels, draws, heads, torch.tensor(COUNTS), net), net, heads


def loss_of(objective: Any, views: ImageViews) -> Tensor:
    num_terms = max(1, int((views.labels >= 0).sum()))
    return Reduction({"own": objective}, {"own": 1.0}).loss({ANSWERS: Whole(views)}, {"own": num_terms})[0]


def gradients(loss: Tensor, modules: dict[str, nn.Module]) -> dict[str, float]:
    """The size of the gradient in each module's weights."""
    for module in modules.values():
        module.zero_grad()
    loss.backward()
    return {
        name: sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
        for name, module in modules.items()
    }


def test_the_first_view_is_the_image_and_four_turns_are_one() -> None:
    pixels = torch.randn(2, 3, SIDE, SIDE)
    for changes in TRANSFORMS.values():
        shown = [change(pixels) for change in changes]
        assert torch.equal(shown[0], pixels) and len({tuple(view.flatten().tolist()) for view in shown}) == len(shown)
    turn = TRANSFORMS["rotations"][1]
    assert torch.equal(turn(turn(turn(turn(pixels)))), pixels) and torch.equal(
        turn(turn(pixels)), TRANSFORMS["rotations"][2](pixels)
    )


def test_pairs_are_numbered_class_first_and_the_ensemble_reads_each_views_own() -> None:
    labels, views = torch.tensor([2, 0]), 4
    # sure of the pair (class, view) in every view: no loss, and of any other numbering a large one
    joint = [50.0 * functional.one_hot(labels * views + view, CLASSES * views).float() for view in range(views)]
    assert float(joint_loss(joint, labels).max()) < 1e-6
    swapped = [50.0 * functional.one_hot(labels + CLASSES * view, CLASSES * views).float() for view in range(views)]
    assert float(joint_loss(swapped, labels).max()) > 10.0
    # of view j the logits of pairs with view j count, and no others
    tables = [torch.full((1, CLASSES * views), 9.0) for _ in range(views)]
    for view, table in enumerate(tables):
        for label in range(CLASSES):
            table[0, label * views + view] = float(label + 10 * view)
    assert aggregated(tables).tolist() == [[15.0, 16.0, 17.0]]


def test_the_distance_to_the_ensemble_is_hintons() -> None:
    heat = 2.0
    views, _, heads = views_of(objective := LabelAugmentation(temperature=heat))
    joint = [heads["joint"](views.answered(turn(views.pixels)).features) for turn in TRANSFORMS["rotations"]]
    ensemble = aggregated(joint)
    distance = functional.kl_div(
        (views.answer.logits / heat).log_softmax(-1), (ensemble / heat).softmax(-1), reduction="batchmean"
    )
    pairs = torch.stack([functional.cross_entropy(some, views.labels * 4 + view) for view, some in enumerate(joint)])
    assert float(loss_of(objective, views).detach()) == pytest.approx(
        float((pairs.mean() + heat**2 * distance).detach()), rel=1e-5
    )
    # a label is read from the pairs alone: without the distance the net's own head learns nothing
    views, net, _ = views_of(held := objective.held_out(()))
    assert held == LabelAugmentation(distilled=0.0, temperature=heat)
    assert gradients(loss_of(held, views), {"head": net.head, "end": net.end})["head"] == 0.0


def test_no_gradient_of_the_distance_reaches_the_ensemble() -> None:
    plain, distilled = LabelAugmentation(distilled=0.0), LabelAugmentation(distilled=5.0)
    sizes = []
    for objective in (plain, distilled):
        views, _, heads = views_of(objective)
        loss_of(objective, views).backward()
        sizes.append(heads["joint"].weight.grad.clone())
    assert torch.allclose(*sizes, atol=1e-7)


def test_a_step_brings_the_own_head_nearer_to_the_ensemble() -> None:
    objective = LabelAugmentation()
    distances = []
    views, net, _ = views_of(objective)
    for _ in range(2):
        distances.append(float((loss_of(objective, views) - loss_of(LabelAugmentation(distilled=0.0), views)).detach()))
        net.zero_grad()
        loss_of(objective, views).backward()
        with torch.no_grad():
            for parameter in net.head.parameters():
                parameter.sub_(0.05 * parameter.grad)
        views = ImageViews(net(views.pixels), views.pixels, views.labels, (), views.heads, views.class_counts, net)
    assert distances[1] < distances[0]


@pytest.mark.parametrize("objective", [LabelAugmentation(), DiverseExperts(), StageHeads()])
def test_images_without_a_class_add_nothing(objective: Any) -> None:
    views, net, _ = views_of(objective, labels=[-1] * ROWS)
    loss = loss_of(objective, views)
    assert float(loss) == 0.0 and gradients(loss, {"net": net})["net"] == 0.0


def test_the_mean_of_the_experts_is_the_net_that_stays() -> None:
    views, _, heads = views_of(DiverseExperts(lambdas=(0.0, 1.0, 2.0, 3.0)))
    raw = heads["experts"](views.answer)
    assert raw.shape == (4, ROWS, CLASSES) and float((raw[0] - raw[1]).abs().max()) > 0.1
    assert torch.allclose(raw.mean(dim=0), views.answer.logits, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_larger_lambda_turns_the_raw_logits_to_rare_classes(seed: int) -> None:
    torch.manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(COUNTS))
    lambdas = torch.tensor([0.0, 1.0, 2.5])
    raw = torch.zeros(3, CLASSES, requires_grad=True)
    prior = torch.tensor(COUNTS).float().log()
    for _ in range(300):
        adjusted = (raw + lambdas[:, None] * prior)[:, None].expand(3, len(labels), CLASSES)
        (gradient,) = torch.autograd.grad(expert_loss(adjusted, labels).mean(), raw)
        raw = (raw - 1.0 * gradient).detach().requires_grad_()
    rare = raw.softmax(dim=-1)[:, 2].tolist()
    assert rare[0] == pytest.approx(3 / 123, abs=0.01), "lambda 0 leaves the classes as frequent as they are"
    assert rare[1] == pytest.approx(1 / 3, abs=0.03), "lambda 1 makes all as likely"
    assert rare[2] > 0.9 and raw[2].argmax() == 2


def test_experts_begin_where_their_adjustments_are_one() -> None:
    objective = DiverseExperts(lambdas=(-0.5, 1.0, 2.5))
    experts = objective.heads(replace(SHAPE, class_counts=COUNTS))["experts"]
    with torch.no_grad():
        experts.weight.zero_()
        raw = experts(Answer(torch.zeros(1, CLASSES), torch.ones(1, WIDTH)))
    prior = torch.tensor(COUNTS).float().log()
    adjusted = raw + torch.tensor(objective.lambdas)[:, None, None] * prior
    assert torch.allclose(adjusted, prior.expand(3, 1, CLASSES), atol=1e-5), "the mean lambda is 1"
    assert torch.allclose(raw.mean(dim=0), torch.zeros(1, CLASSES), atol=1e-5)


def test_experts_adjust_by_their_own_lambda_and_the_training_counts() -> None:
    objective = DiverseExperts(lambdas=(-0.5, 1.0), consistency=0.0)
    views, _, heads = views_of(objective)
    raw, prior = heads["experts"](views.answer), torch.tensor(COUNTS).float().log()
    expected = sum(
        functional.cross_entropy(of_expert + own * prior, views.labels)
        for of_expert, own in zip(raw, (-0.5, 1.0), strict=True)
    )
    assert float(loss_of(objective, views).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_mask_reads_the_weak_view_and_an_empty_one_is_exactly_zero() -> None:
    labels = torch.tensor([0, 0])
    weak = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])  # right, wrong
    strong = torch.tensor([[[0.0, 1.0], [5.0, 0.0]]], requires_grad=True)  # wrong, right
    mask = is_confident(weak, labels)
    assert mask.tolist() == [[True, False]]
    values = consistency(weak, strong, mask)
    expected = functional.kl_div(strong[0, 0].log_softmax(-1), weak[0, 0].softmax(-1), reduction="sum")
    assert float(values[0]) == pytest.approx(float(expected), rel=1e-5) and float(values[1]) == 0.0
    # where nothing is confident: zero, also of logits that are infinite apart
    none = consistency(torch.full_like(weak, 1e30), strong * 1e30, torch.zeros_like(mask))
    assert none.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(values.sum(), strong)
    assert not gradient[0, 1].any() and gradient[0, 0, 0] < 0 < gradient[0, 0, 1], "toward the weak view"


def test_no_gradient_reaches_the_weak_view() -> None:
    """What the logits of the weak view are drawn to is the labels' alone, however much the consistency weighs."""
    gradients_of_weak, losses = [], []
    for share in (0.0, 4.0):
        objective = DiverseExperts(consistency=share, is_masked=False)
        views, _, _ = views_of(objective, draws=tuple(range(ROWS)))
        losses.append(loss_of(objective, views))
        gradients_of_weak.append(torch.autograd.grad(losses[-1], views.answer.logits)[0])
    assert float(losses[1]) > float(losses[0]) + 0.01, "the strong view is another"
    assert torch.allclose(*gradients_of_weak, atol=1e-6)


def test_only_shallow_heads_learn_from_deep_ones() -> None:
    torch.manual_seed(0)
    pairs = [[torch.randn(ROWS, 12, requires_grad=True) for _ in range(4)] for _ in range(3)]
    loss = agreement(pairs, 3.0).mean()
    grads = [torch.autograd.grad(loss, some[0], retain_graph=True, allow_unused=True)[0] for some in pairs]
    assert grads[2] is None and all(grad is not None and grad.abs().max() > 0 for grad in grads[:2])
    expected = sum(
        9.0 * functional.kl_div((shallow / 3.0).log_softmax(-1), (deep / 3.0).softmax(-1), reduction="batchmean")
        for own, deeper in ((0, 1), (0, 2), (1, 2))
        for shallow, deep in zip(pairs[own], pairs[deeper], strict=True)
    )
    assert float(loss) == pytest.approx(float(expected) / 4, rel=1e-5)


def test_the_end_is_not_drawn_toward_inner_stages() -> None:
    grads = []
    for alignment in (0.0, 5.0):
        objective = StageHeads(agreement=0.0, alignment=alignment)
        views, _, _ = views_of(objective)
        loss = loss_of(objective, views)
        grads.append(torch.autograd.grad(loss, views.answer.features, retain_graph=True)[0])
        (inner,) = torch.autograd.grad(loss, views.answer.stages[0])
        grads.append(inner)
    assert torch.allclose(grads[0], grads[2], atol=1e-7) and not torch.allclose(grads[1], grads[3])


def test_the_label_free_loss_is_symmetric_bounded_and_reads_no_label() -> None:
    torch.manual_seed(0)
    first, second = (5.0 * torch.randn(ROWS, CLASSES)).log_softmax(-1), torch.randn(ROWS, CLASSES).log_softmax(-1)
    drawn = Drawn(torch.zeros(ROWS, dtype=torch.long))
    divergence = JensenShannon()
    there, back = divergence(first, second, drawn), divergence(second, first, drawn)
    assert torch.allclose(there, back, atol=1e-6) and float(there.min()) > 0
    apart = torch.tensor([[0.0, -60.0]])
    assert float(divergence(apart, apart.flip(-1), drawn)) == pytest.approx(math.log(2), rel=1e-4)
    assert torch.allclose(divergence(first, first, drawn), torch.zeros(ROWS), atol=1e-6)
    requires = ObjectiveSpec(divergence="jensen_shannon").objective().requires
    assert requires.sources == {"teacher"} and not requires.facts
