"""Guidance adapters of denoisers: nothing at first, all that learns, told scale, timestep and class; targets and paths by their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attar.compressors.diffusion.net import guided, predictor, two_passes
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.diffusion.sampler import unrolled
from attar.compressors.distill.examples.guided_paths import GuidedPaths
from attar.compressors.distill.examples.noised import SCALE, Draws, NoisedBatch, scales_between
from attar.compressors.distill.losses.denoising.guidance import GuidedDistance
from attar.compressors.distill.losses.denoising.views import DenoisingViews
from attar.compressors.guidance.denoiser import AdapterKind, DenoiserAdapters, GuidedDenoiser, ScaleAdapters
from attar.stages.artifacts.denoiser.nets import DIT, UNET, NetKind, net_of

pytest.importorskip("diffusers", reason="in the extra `images`")
ANY_CLASS = 3
CONFIGS = {
    UNET: {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "num_class_embeds": 4, "norm_num_groups": 4, "attention_head_dim": 8,
    },
    DIT: {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "num_attention_heads": 2, "attention_head_dim": 8,
        "num_layers": 2, "patch_size": 2, "num_embeds_ada_norm": 3,
    },
}  # fmt: skip


def net(kind: NetKind) -> nn.Module:
    torch.manual_seed(0)
    made = kind.prepared(net_of(kind).from_config(CONFIGS[kind]))
    for parameter in made.parameters():  # away from the zeros it begins with
        if not bool(parameter.detach().any()):
            nn.init.normal_(parameter, std=0.2)
    return made.eval().requires_grad_(False)


def adapted(kind: NetKind, adapter: AdapterKind = "cross", **options: bool) -> tuple[nn.Module, DenoiserAdapters]:
    base = net(kind)
    attentions = kind.attentions(base)
    torch.manual_seed(1)
    adapters = ScaleAdapters(adapter=adapter, rank=8, **options).built(attentions, 1.0, 6.0)
    adapters.attach(attentions)
    return base, adapters


def inputs(num_rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    states = torch.randn(num_rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return states, torch.arange(num_rows) * 9, torch.arange(num_rows) % 3


def process() -> NoiseProcess:
    alpha_bar = torch.linspace(0.02, torch.pi / 2, 100).cos().square()
    alpha_bar[-1] = 0.0
    return NoiseProcess.of(alpha_bar, "v_prediction", "trailing")


@pytest.mark.parametrize("kind", [UNET, DIT], ids=lambda kind: kind.name)
@pytest.mark.parametrize("adapter", ["cross", "offset"])
def test_fresh_adapters_are_the_base_and_are_all_that_learns(kind: NetKind, adapter: AdapterKind) -> None:
    base, adapters = adapted(kind, adapter)
    predict, scales = predictor(base), torch.linspace(1.0, 6.0, 6)
    before, plain = {name: value.clone() for name, value in base.state_dict().items()}, predict(*inputs())
    with adapters.at(scales):
        assert torch.equal(predict(*inputs()), plain)
    assert not any("model" in name for name in adapters.state_dict())
    optimizer = torch.optim.SGD(adapters.parameters(), lr=1.0)
    for _ in range(2):  # the first step moves what is zero, the second what is before it
        optimizer.zero_grad()
        with adapters.at(scales):
            predict(*inputs()).square().sum().backward()
        optimizer.step()
    with adapters.at(scales):
        assert not torch.equal(predict(*inputs()), plain)
    assert torch.equal(predict(*inputs()), plain), "off again behind the block"
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert all(parameter.grad is not None for parameter in adapters.parameters())


def test_what_is_added_depends_on_scale_timestep_and_class_and_stays_within_the_trained_scales() -> None:
    base, adapters = adapted(UNET, "offset", is_base_at_one=True)
    for parameter in adapters.parameters():
        nn.init.normal_(parameter, std=0.3)
    states, times, classes = inputs()
    predict = predictor(base)

    def at(scale: float) -> Tensor:
        with adapters.at(torch.full((6,), scale)):
            return predict(states, times, classes)

    assert torch.equal(at(6.0), at(8.0)) and not torch.equal(at(5.0), at(6.0))
    assert torch.equal(at(1.0), predict(states, times, classes)), "w - 1 is nothing"
    block = adapters.blocks[0]
    width = block.time.in_features  # type: ignore[union-attr]
    hidden, some, others = torch.randn(6, 4, 16), torch.randn(6, width), torch.randn(6, width)
    added = block(hidden, torch.full((6,), 2.0), some, others)
    assert added.shape == (6, 1, 16)
    for changed in ((torch.full((6,), 3.0), some, others), (torch.full((6,), 2.0), others, others)):
        assert not torch.allclose(block(hidden, *changed), added)
    assert not torch.allclose(block(hidden, torch.full((6,), 2.0), some, some), added)


def test_adapters_of_another_net_are_refused() -> None:
    _, adapters = adapted(DIT)
    with pytest.raises(ValueError, match="the adapters are for 2 attentions, the net has"):
        adapters.attach(UNET.attentions(net(UNET))[:1])


def test_two_passes_are_the_formula_and_at_scale_one_the_conditional_pass() -> None:
    predict = predictor(net(UNET))
    states, times, classes = inputs()
    scales = torch.linspace(1.0, 6.0, 6)
    both = two_passes(predict, states, times, classes, scales, ANY_CLASS)
    conditional, unguided = predict(states, times, classes), predict(states, times, torch.full_like(classes, ANY_CLASS))
    torch.testing.assert_close(both, unguided + scales[:, None, None, None] * (conditional - unguided))
    torch.testing.assert_close(both[0], conditional[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(guided(predict, 6.0, ANY_CLASS)(states, times, classes)[-1], both[-1])


def test_paths_follow_the_guided_sampler_from_noise_with_a_class_and_scale_of_their_own() -> None:
    of, predict = process(), predictor(net(UNET))
    paths = GuidedPaths(num_rollouts=12, num_steps=5, min_scale=2.0, max_scale=2.0)
    visited = paths.over(predict, of, (1, 8, 8), 3, ANY_CLASS, seed=4)
    assert visited.visited.shape == (5, 12, 1, 8, 8) and visited.times.tolist() == [time for time, _ in of.steps(5)]
    seen: list[Tensor] = []

    def recorded(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        seen.append(states)
        return guided(predict, 2.0, ANY_CLASS)(states, times, classes)

    with torch.no_grad():
        unrolled(recorded, of, visited.visited[0], visited.classes, 5)
    torch.testing.assert_close(torch.stack(seen), visited.visited)
    again, other = (paths.over(predict, of, (1, 8, 8), 3, ANY_CLASS, seed=seed) for seed in (4, 5))
    assert torch.equal(again.visited, visited.visited) and not torch.equal(other.visited, visited.visited)
    draws = Draws(torch.zeros(40, 1, 8, 8), torch.zeros(40).long(), torch.zeros(40, 2, 1, 8, 8), torch.rand(40, 4))
    states, times, classes = visited.states(of, draws)
    paths_of = [int((visited.visited == state).flatten(2).all(-1).any(0).nonzero()[0]) for state in states]
    assert classes.tolist() == visited.classes[paths_of].tolist() and set(times.tolist()) <= set(visited.times.tolist())
    assert torch.equal(draws.uniform[:, SCALE], visited.numbers[paths_of]), "a state is learned at its path's scale"


def test_the_distance_is_nothing_for_guidance_itself_and_its_gradient_reaches_the_adapters_alone() -> None:
    base, adapters = adapted(UNET)
    objective, of, predict = GuidedDistance(num_rollouts=10), process(), predictor(net(UNET))
    states, times, classes = inputs()
    uniform = torch.rand(6, 4)
    batch = NoisedBatch(states, states, times, classes, torch.zeros(6, 2, 1, 8, 8), uniform, ())
    scales = scales_between(uniform, 1.0, 6.0)
    right = two_passes(predict, states, times, classes, scales, ANY_CLASS)
    views = DenoisingViews(right, batch, of, ANY_CLASS, teacher=predict)
    assert float(objective.terms(views).values.max()) == 0.0
    student = GuidedDenoiser(base, UNET.attentions(base), adapters)
    fresh = objective.terms(DenoisingViews(student(batch), batch, of, ANY_CLASS, teacher=predict))
    plain = (predict(states, times, classes) - right).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(fresh.values, plain)
    fresh.values.sum().backward()
    assert {name.split(".")[0] for name, value in student.named_parameters() if value.grad is not None} == {"guidance"}


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"min_scale": 3.0, "max_scale": 2.0}, "min_scale is 3 and max_scale 2; accepted: 0 or more"),
        ({"num_steps": 1}, "num_steps is 1; accepted: 2 or more"),
        ({"num_rollouts": 2}, "num_rollouts is 2; accepted: 10 or more"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(params: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        GuidedDistance(**params)  # type: ignore[arg-type]
