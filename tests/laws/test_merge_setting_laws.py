"""Parameters of the merge methods: each is read at its tensor's own location, each is refused by name, and what is left out is a weight of 1."""

from __future__ import annotations

import re

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.merge.group import TensorGroup
from attar.compressors.merge.methods import MERGE_METHODS, check_num_models
from attar.compressors.merge.setting import TensorLocation, filters, locations, resolve
from tests.unit.compressors.merge.test_merge_methods import merged, tensor

BASE, MODELS = tensor(400), [tensor(400, seed=1), tensor(400, seed=2)]
HALFWAY = TensorLocation("layers.1.w", 0.5)
WEIGHTED = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties")
SCALED = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
SPARSE = ("ties", "dare_linear", "dare_ties")
NEEDS_BASE = {"task_arithmetic", "ties", "dare_linear", "dare_ties", "model_stock"}
NUMBER = "it must be a number, a list of numbers, or rules of filter and value"


def halfway(name: str, **params: object) -> torch.Tensor:
    return build(MERGE_METHODS, name, params)(TensorGroup(HALFWAY, tuple(MODELS), BASE)).tensor(BASE)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        *((name, {"weights": [[0.0, 1.0], [3.0, 1.0]]}, {"weights": [0.5, 2.0]}) for name in WEIGHTED),
        *((name, {"scale": [-1.0, 0.0]}, {"scale": -0.5}) for name in SCALED),
        *((name, {"density": [0.2, 0.6]}, {"density": 0.4}) for name in SPARSE),
        ("dare_linear", {"density": [0.2, 0.6], "rescale": "norm"}, {"density": 0.4, "rescale": "norm"}),
        ("slerp", {"t": [0.1, 0.3]}, {"t": 0.2}),
        ("slerp", {"t": [0.1, 0.3], "on": "deltas"}, {"t": 0.2, "on": "deltas"}),
    ],
)
def test_anchors_along_the_blocks_are_read_at_the_tensors_location(name: str, given: dict, value: dict) -> None:
    torch.testing.assert_close(halfway(name, **given), halfway(name, **value))
    assert not torch.equal(halfway(name, **value), halfway(name)), "the parameter does something"


@pytest.mark.parametrize("name", WEIGHTED)
def test_without_weights_each_model_weighs_1(name: str) -> None:
    assert torch.equal(halfway(name), halfway(name, weights=[1.0, 1.0]))


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "dare_linear"])
def test_normalized_weights_add_up_to_1(name: str) -> None:
    given = halfway(name, weights=[1.0, 3.0], normalize=True)
    torch.testing.assert_close(given, halfway(name, weights=[0.25, 0.75], normalize=False))
    with pytest.raises(ValueError, match=r"^weights sum to 0 at layers\.1\.w: they cannot be normalized$"):
        halfway(name, weights=[1.0, -1.0], normalize=True)


def test_methods_say_what_they_take() -> None:
    assert {name for name in MERGE_METHODS if build(MERGE_METHODS, name).needs_base} == NEEDS_BASE
    assert build(MERGE_METHODS, "slerp", {"on": "deltas"}).needs_base
    numbers = {name: build(MERGE_METHODS, name).num_models for name in MERGE_METHODS}
    assert numbers == {
        "linear": (2, 0), "slerp": (2, 2), "task_arithmetic": (1, 0), "ties": (2, 0), "dare_linear": (1, 0), "dare_ties": (2, 0),
        "model_stock": (2, 0), "karcher": (2, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "num_models", "message"),
    [
        ("slerp", 3, "students: method 'slerp' takes 2, not 3"),
        ("slerp", 1, "students: method 'slerp' takes 2, not 1"),
        ("ties", 1, "students: method 'ties' takes 2 or more, not 1"),
        ("dare_linear", 0, "students: method 'dare_linear' takes 1 or more, not 0"),
    ],
)
def test_another_number_of_models_is_refused_in_these_words(name: str, num_models: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_num_models(name, build(MERGE_METHODS, name), num_models)


@pytest.mark.parametrize("name", MERGE_METHODS)
def test_the_branch_is_the_methods_name(name: str) -> None:
    group = TensorGroup(HALFWAY, tuple(MODELS), BASE)
    assert build(MERGE_METHODS, name)(group).branch == name


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        *((name, {"weights": ["a"]}, f"weights[0] is 'a'; {NUMBER}") for name in WEIGHTED),
        *((name, {"weights": "ab"}, "weights is 'ab'; it must be a list with one number a model") for name in WEIGHTED),
        *((name, {"scale": "a"}, f"scale is 'a'; {NUMBER}") for name in SCALED),
        *((name, {"density": 0.0}, "density is 0.0; it must lie in (0, 1]") for name in SPARSE),
        *((name, {"density": 1.01}, "density is 1.01; it must lie in (0, 1]") for name in SPARSE),
        ("slerp", {"t": 1.01}, "t is 1.01; it must lie in [0, 1]"),
        ("slerp", {"lerp_above": -0.01}, "lerp_above is -0.01; it must lie in [0, 1]"),
        ("slerp", {"lerp_above": 1.01}, "lerp_above is 1.01; it must lie in [0, 1]"),
        ("slerp", {"on": "logits"}, "on is 'logits'; it must be 'weights' or 'deltas'"),
        ("dare_linear", {"rescale": "l2"}, "rescale is 'l2'; it must be one of density, norm, none"),
        ("dare_ties", {"seed": True}, "seed is True; it must be a whole number"),
        ("karcher", {"num_iterations": 1.5}, "num_iterations is 1.5; it must be 1 or more"),
        ("karcher", {"tolerance": -1.0}, "tolerance is -1.0; it must be above 0 radians"),
    ],
)
def test_a_wrong_parameter_is_refused_in_these_words(name: str, params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MERGE_METHODS[name](**params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *((name, {"density": 1.0}) for name in SPARSE),
        *((name, {"scale": 7}) for name in SCALED),
        ("slerp", {"t": 0, "lerp_above": 1}),
        ("slerp", {"t": 1.0, "lerp_above": 0.0}),
        ("karcher", {"num_iterations": 1}),
    ],
)
def test_the_ends_of_a_range_are_accepted(name: str, params: dict) -> None:
    assert torch.isfinite(halfway(name, **params)).all()


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_of_a_single_change_the_coins_leave_what_the_rescaling_says(name: str, rescale: str) -> None:
    base, change = tensor(5000), tensor(5000, seed=1)
    models = [base + change] if name == "dare_linear" else [base + change, base.clone()]
    made = merged(name, models, base, density=0.25, rescale=rescale) - base
    stays = made.abs() > 1e-6
    factor = {"density": 4.0, "none": 1.0, "norm": float(change.abs().sum() / change[stays].abs().sum())}[rescale]
    torch.testing.assert_close(made[stays], factor * change[stays], atol=1e-5, rtol=1e-4)
    assert float(stays.float().mean()) == pytest.approx(0.25, abs=0.03)


def test_locations_are_told_by_the_first_number_of_a_name() -> None:
    names = ["model.embed.weight", "model.layers.0.a.weight", "model.layers.2.experts.7.w", "model.layers.4.b", "4.x"]
    assert [location.block_fraction for location in locations(names)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [location.name for location in locations(names)] == names
    assert [location.block_fraction for location in locations(["layers.0.w", "norm"])] == [1.0, 0.0], "a single block"
    assert locations([]) == []


def test_anchors_meet_at_their_blocks_and_run_straight_between() -> None:
    at = [resolve([0.0, 1.0, 4.0], TensorLocation("x", fraction)) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert at == [0.0, 0.5, 1.0, 2.5, 4.0]
    assert resolve(3, HALFWAY) == 3.0 and resolve([2.0], HALFWAY) == 2.0
    assert filters([{"filter": "mlp", "value": 1.0}, {"value": [0.0, 1.0]}]) == ["mlp"]
    assert filters(0.5) == filters([0.0, 1.0]) == []
