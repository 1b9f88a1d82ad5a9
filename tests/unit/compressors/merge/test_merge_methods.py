"""Laws of the merge methods on small tensors: what is known by formula, what must not matter, what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.merge import group as group_module
from attar.compressors.merge.group import MergeError, TensorGroup
from attar.compressors.merge.methods import MERGE_METHODS, check_filters, check_num_models, merge_states
from attar.compressors.merge.setting import TensorLocation, check_setting, locations, resolve
from attar.compressors.merge.trim import Trimmer, magnitude_cuts

NAMES = ["embed.weight", "layers.0.mlp.w", "layers.1.mlp.w", "layers.1.self_attn.w", "layers.2.mlp.w", "norm.weight"]


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merged(name: str, models: list[torch.Tensor], base: torch.Tensor | None = None, **params: object) -> torch.Tensor:
    group = TensorGroup(TensorLocation("layers.0.w"), tuple(models), base)
    return build(MERGE_METHODS, name, params)(group).tensor(models[0])


@pytest.mark.parametrize("name", MERGE_METHODS)
def test_models_that_are_equal_merge_to_themselves(name: str) -> None:
    """For sums of changes under weights that add up to 1, and nothing dropped: what all have learned stays."""
    base, model = tensor(40, 5), tensor(40, 5, seed=1)
    params = {"weights": [0.5, 0.5]} if name in ("task_arithmetic", "dare_linear", "dare_ties") else {}
    if name in ("ties", "dare_linear", "dare_ties"):
        params["density"] = 1.0
    torch.testing.assert_close(merged(name, [model, model.clone()], base, **params), model, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MERGE_METHODS)
def test_chunks_of_any_length_give_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = tensor(1001), [tensor(1001, seed=1), tensor(1001, seed=2)]
    whole = merged(name, models, base)
    monkeypatch.setattr(group_module, "CHUNK_ELEMENTS", 64)
    torch.testing.assert_close(merged(name, models, base), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(set(MERGE_METHODS) - {"dare_linear", "dare_ties"}))
def test_the_order_of_students_does_not_matter_under_equal_weights(name: str) -> None:
    """DARE throws other coins for the first than for the second."""
    base, models = tensor(300), [tensor(300, seed=1), tensor(300, seed=2)]
    torch.testing.assert_close(merged(name, models, base), merged(name, models[::-1], base), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MERGE_METHODS)
def test_numbers_that_are_not_finite_are_refused_with_tensor_and_student(name: str) -> None:
    base, models = tensor(20), [tensor(20, seed=1), tensor(20, seed=2)]
    models[1][7] = float("nan")
    with pytest.raises(MergeError, match=r"layers\.0\.w of student 2 holds a number that is not finite"):
        merged(name, models, base)
    if build(MERGE_METHODS, name).needs_base:
        base[3] = float("inf")
        with pytest.raises(MergeError, match="of base holds a number"):
            merged(name, [tensor(20, seed=1), tensor(20, seed=2)], base)


def test_large_finite_numbers_are_not_taken_for_infinite() -> None:
    """Their sum overflows, they do not."""
    models = [torch.full((4,), 3e38), torch.full((4,), 3e38)]
    torch.testing.assert_close(merged("linear", models), models[0])


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.97])
def test_trimming_keeps_exactly_the_largest(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.stack([tensor(5000, seed=3), tensor(5000, seed=4) * 1e-20])
    monkeypatch.setattr(group_module, "CHUNK_ELEMENTS", 512)
    num_kept = int(density * 5000)
    chunks = values.split(512, dim=1)
    trimmer = Trimmer(magnitude_cuts([iter(chunks), iter(chunks)], [num_kept, num_kept]))
    trimmed = torch.cat([trimmer.mask(chunk) for chunk in chunks], dim=1)
    for row, mask in zip(values, trimmed, strict=True):
        expected = torch.zeros(5000, dtype=torch.bool)
        expected[row.abs().topk(num_kept).indices] = True
        assert torch.equal(mask, expected)


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    values = torch.tensor([[1.0, -2.0, 1.0, 2.0, -1.0, 0.0, 1.0]])
    for num_kept, expected in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4]), (7, [0, 1, 2, 3, 4, 5, 6])):
        chunks = values.split(3, dim=1)
        trimmer = Trimmer(magnitude_cuts([iter(chunks), iter(chunks)], [num_kept]))
        trimmed = torch.cat([trimmer.mask(chunk) for chunk in chunks], dim=1)
        assert trimmed[0].nonzero().flatten().tolist() == expected


def test_ties_by_hand() -> None:
    base = torch.zeros(4)
    models = [torch.tensor([4.0, -3.0, 0.1, 2.0]), torch.tensor([2.0, 5.0, 0.2, -0.3])]
    # trimmed to two each: [4, -3, 0, 0], [2, 5, 0, 0]; signs elected +, +: means 3 and 5
    torch.testing.assert_close(merged("ties", models, base, density=0.5), torch.tensor([3.0, 5.0, 0.0, 0.0]))
    summed = merged("ties", models, base, density=0.5, normalize=False, scale=0.5)
    torch.testing.assert_close(summed, torch.tensor([3.0, 2.5, 0.0, 0.0]))


def test_task_arithmetic_with_a_negative_weight_unlearns() -> None:
    base, model = tensor(9), tensor(9, seed=1)
    torch.testing.assert_close(merged("task_arithmetic", [model], base, weights=[-1.0]), 2 * base - model)


def test_dare_drops_its_share_keeps_the_mean_and_depends_on_seed_and_name_alone() -> None:
    base, model = torch.zeros(100_000), torch.ones(100_000)
    first = merged("dare_linear", [model], base, density=0.3)
    mask = first != 0
    assert mask.float().mean() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(first[mask], torch.full_like(first[mask], 1 / 0.3))
    assert torch.equal(first, merged("dare_linear", [model], base, density=0.3)), "no state is kept"
    assert not torch.equal(first, merged("dare_linear", [model], base, density=0.3, seed=1))
    elsewhere = build(MERGE_METHODS, "dare_linear", {"density": 0.3})(
        TensorGroup(TensorLocation("other"), (model,), base)
    )
    assert not torch.equal(first, elsewhere.tensor(model))
    by_norm = merged("dare_linear", [tensor(1000)], torch.zeros(1000), density=0.3, rescale="norm")
    torch.testing.assert_close(by_norm.abs().sum(), tensor(1000).abs().sum())
    torch.manual_seed(0)
    before = torch.rand(3)
    torch.manual_seed(0)
    merged("dare_ties", [model, model], base, density=0.3)
    assert torch.equal(torch.rand(3), before), "the global generator is left alone"


def test_merging_tensors_in_another_order_changes_nothing() -> None:
    models = [{name: tensor(60, seed=index + 10 * seed) for index, name in enumerate(NAMES)} for seed in (1, 2)]
    base = {name: tensor(60, seed=99) for name in NAMES}
    method = build(MERGE_METHODS, "dare_ties", {"density": 0.4})
    forward, _ = merge_states(method, models, base)
    backward, _ = merge_states(method, [dict(reversed(model.items())) for model in models], base)
    assert all(torch.equal(forward[name], backward[name]) for name in NAMES)


def test_model_stock_of_orthogonal_and_of_equal_changes() -> None:
    base = torch.zeros(3)
    first, second = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(merged("model_stock", [first, second], base), base)
    halfway = torch.tensor([0.5, 3**0.5 / 2, 0.0])  # cosine 1/2: t = 2/3
    torch.testing.assert_close(merged("model_stock", [first, halfway], base), (first + halfway) / 3)
    torch.testing.assert_close(merged("model_stock", [first, -first], base), base)


def test_karcher_mean_has_the_least_sum_of_squared_angles() -> None:
    models = [tensor(4, seed=seed) for seed in (1, 2, 3)]
    units = [model / model.norm() for model in models]
    mean = merged("karcher", models, num_iterations=200, tolerance=1e-9)

    def spread(point: torch.Tensor) -> float:
        return sum(float((point / point.norm() @ unit).clamp(-1, 1).arccos() ** 2) for unit in units)

    best = spread(mean)
    assert all(spread(mean + 0.05 * tensor(4, seed=seed)) > best for seed in range(10, 40))
    torch.testing.assert_close(mean.norm(), sum(model.norm() for model in models) / 3)


def test_karcher_mean_of_two_is_slerp_halfway_for_equal_norms() -> None:
    first, second = tensor(50, seed=1), tensor(50, seed=2)
    second *= first.norm() / second.norm()
    torch.testing.assert_close(
        merged("karcher", [first, second], num_iterations=100, tolerance=1e-9),
        merged("slerp", [first, second], t=0.5),
        atol=1e-5,
        rtol=0,
    )


def test_gradients_run_from_the_first_block_to_the_last_and_rules_go_by_name() -> None:
    by_name = {location.name: location for location in locations(NAMES)}
    assert [by_name[f"layers.{index}.mlp.w"].block_fraction for index in range(3)] == [0.0, 0.5, 1.0]
    assert resolve([0.0, 1.0, 0.5], by_name["layers.1.mlp.w"]) == 1.0
    assert resolve([0.0, 1.0], by_name["layers.1.mlp.w"]) == 0.5
    assert resolve([0.2, 1.0], by_name["norm.weight"]) == 0.2, "what is in no block has the first anchor"
    rules = [{"filter": "self_attn", "value": [0.0, 1.0]}, {"filter": "layers", "value": 0.3}, {"value": 0.7}]
    resolved = [resolve(rules, by_name[name]) for name in NAMES]
    assert resolved == [0.7, 0.3, 0.3, 0.5, 0.3, 0.7]
    models = [{name: torch.full((2,), float(side)) for name in NAMES} for side in (0, 1)]
    merged_state, _ = merge_states(build(MERGE_METHODS, "slerp", {"t": rules}), models)
    assert [round(float(merged_state[name][0]), 6) for name in NAMES] == resolved, (
        "zeros have no angle: a straight line"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (1.5, "t is 1.5; it must lie in"),
        ([0.1, -0.1], "t is -0.1; it must lie in"),
        ("half", "t is 'half'; it must be a number"),
        (True, "t is True; it must be a number"),
        (float("nan"), "t is nan; it must be a number"),
        ([], "t is empty"),
        ([{"filter": "mlp", "value": 0.1}], "the last of its rules, and no other, must be without a filter"),
        ([{"value": 0.1}, {"value": 0.2}], "the last of its rules, and no other, must be without a filter"),
        ([{"filter": "mlp", "valu": 0.1}, {"value": 0.2}], r"t\[0\] is .* a rule has a value"),
        ([{"filter": "mlp", "value": 7}, {"value": 0.2}], r"t\[0\]\.value is 7|t is 7"),
        ([{"filter": 3, "value": 0.1}, {"value": 0.2}], r"t\[0\]\.filter is 3"),
    ],
)
def test_a_wrong_setting_is_refused(setting: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_setting("t", setting, low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("ties", {"density": 0.0}, r"density is 0.0; it must lie in \(0, 1\]"),
        ("dare_linear", {"density": 1.2}, "density is 1.2"),
        ("dare_ties", {"rescale": "l2"}, "rescale is 'l2'; it must be one of density, norm, none"),
        ("dare_ties", {"seed": 0.5}, "seed is 0.5"),
        ("linear", {"weights": 0.5}, "weights is 0.5; it must be a list"),
        ("linear", {"weights": ["a"]}, r"weights\[0\] is 'a'"),
        ("karcher", {"num_iterations": 0}, "num_iterations is 0"),
        ("karcher", {"tolerance": 0.0}, "tolerance is 0.0"),
        ("model_stock", {"t": 1}, "method 'model_stock' has no parameter 't'"),
        ("tie", {}, "unknown method 'tie'. Did you mean 'ties'"),
    ],
)
def test_a_wrong_parameter_is_refused(name: str, params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(MERGE_METHODS, name, params)


def test_numbers_of_models_weights_and_filters_are_checked() -> None:
    for name, num_models in itertools.product(MERGE_METHODS, (1, 2, 3)):
        method = build(MERGE_METHODS, name)
        least, most = method.num_models
        if least <= num_models <= (most or 9):
            check_num_models(name, method, num_models)
        else:
            with pytest.raises(
                ValueError, match=f"students: method '{name}' takes {least}( or more)?, not {num_models}"
            ):
                check_num_models(name, method, num_models)
    with pytest.raises(ValueError, match=r"params\.weights has 3 entries for 2 students"):
        check_num_models("linear", build(MERGE_METHODS, "linear", {"weights": [1, 1, 1]}), 2)
    with pytest.raises(ValueError, match="weights sum to 0 at"):
        merged("linear", [tensor(3), tensor(3)], weights=[1, -1])
    rules = [{"filter": "self_atn", "value": 0.1}, {"value": 0.2}]
    with pytest.raises(ValueError, match="filter 'self_atn' fits no tensor"):
        check_filters(build(MERGE_METHODS, "slerp", {"t": rules}), NAMES)
    with pytest.raises(ValueError, match="filter 'self_atn' fits no tensor"):
        check_filters(build(MERGE_METHODS, "ties", {"weights": [1.0, rules]}), NAMES)
