"""Every method that mergekit has too, on folders with tied and untied embeddings, against mergekit's own run of its own config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from attar.compressors.catalogue import build
from attar.compressors.merge.methods import MERGE_METHODS
from attar.compressors.merge.sparse import coins
from attar.stages.ingest.tiny_model import byte_tokenizer, tiny_config
from attar.stages.merge.sources import FolderSource
from attar.stages.merge.stream import MergeOrder, write_merged

# Both compute in float32; sums of a few numbers of size 1 round differently in the last bit or two.
TOLERANCE = 1e-6
RULES = [{"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": [1, 0.5, 0.7]}, {"value": 0.5}]

# Ours: name and parameters. Theirs: name, parameters of all, parameters by model.
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], list[dict[str, Any]]]] = {
    "linear": ("linear", {"weights": [0.3, 0.7, 0.5]}, "linear", {}, [{"weight": w} for w in (0.3, 0.7, 0.5)]),
    "linear, sum": (
        "linear",
        {"weights": [0.3, 0.7], "normalize": False},
        "linear",
        {"normalize": False},
        [{"weight": 0.3}, {"weight": 0.7}],
    ),
    "linear, gradient": (
        "linear",
        {"weights": [[0.1, 0.9], RULES]},
        "linear",
        {},
        [{"weight": [0.1, 0.9]}, {"weight": RULES}],
    ),
    "slerp": ("slerp", {"t": 0.3}, "slerp", {"t": 0.3}, []),
    "slerp, gradient by name": ("slerp", {"t": RULES}, "slerp", {"t": RULES}, []),
    "task_arithmetic": (
        "task_arithmetic",
        {"weights": [0.6, -0.3], "scale": 0.8},
        "task_arithmetic",
        {"lambda": 0.8},
        [{"weight": 0.6}, {"weight": -0.3}],
    ),
    "ties": (
        "ties",
        {"weights": [0.5, 0.9, 0.4], "density": 0.3, "scale": 0.9},
        "ties",
        {"density": 0.3, "lambda": 0.9},
        [{"weight": w} for w in (0.5, 0.9, 0.4)],
    ),
    "ties, sum": (
        "ties",
        {"weights": [1.0, 0.5], "density": [0.2, 0.6], "normalize": False},
        "ties",
        {"density": [0.2, 0.6], "normalize": False},
        [{"weight": 1.0}, {"weight": 0.5}],
    ),
    "dare_linear": (
        "dare_linear",
        {"weights": [0.5, 0.7], "density": 0.4, "rescale": "norm"},
        "dare_linear",
        {"density": 0.4},
        [{"weight": 0.5}, {"weight": 0.7}],
    ),
    "dare_linear, not rescaled": (
        "dare_linear",
        {"weights": [0.5, 0.7], "density": 0.4, "rescale": "none", "normalize": True},
        "dare_linear",
        {"density": 0.4, "rescale": False, "normalize": True},
        [{"weight": 0.5}, {"weight": 0.7}],
    ),
    "dare_ties": (
        "dare_ties",
        {"weights": [0.5, 0.7, 0.2], "density": 0.6, "rescale": "norm", "normalize": True},
        "dare_ties",
        {"density": 0.6, "normalize": True},
        [{"weight": w} for w in (0.5, 0.7, 0.2)],
    ),
    "model_stock": ("model_stock", {}, "model_stock", {}, [{}, {}, {}]),
    "karcher": ("karcher", {}, "karcher", {}, [{}, {}, {}]),
}


@pytest.fixture(scope="module", params=["untied", "tied"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three models some way from it: in random directions of which they share one half."""
    home = tmp_path_factory.mktemp(request.param)
    config = tiny_config("llama", num_blocks=3, hidden_size=32, tokenizer=byte_tokenizer())
    config.tie_word_embeddings = request.param == "tied"
    generator = torch.Generator().manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(0.0, 0.15, generator=generator)
    base.save_pretrained(home / "base")
    state = {name: tensor.clone() for name, tensor in base.named_parameters()}
    common = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    for index in range(3):
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                own = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(state[name] + 0.1 * (common[name] + own))
        base.save_pretrained(home / f"student_{index}")
    return [home / "base", *(home / f"student_{index}" for index in range(3))]


@pytest.mark.parametrize("case", CASES)
def test_equals_mergekit(case: str, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # local: every worker reads this file to know its tests, and only the one that runs them should wait
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    name, params, peer, shared, by_model = CASES[case]
    base, *students = folders
    students = students[: len(by_model) or 2]
    method = build(MERGE_METHODS, name, params)
    if name.startswith("dare"):
        monkeypatch.setattr(
            "mergekit.merge_methods.generalized_task_arithmetic.sparsify", throw_our_coins(base, students)
        )
    order = MergeOrder(method, tuple(map(FolderSource, students)), FolderSource(base), None, 10**9)
    write_merged(order, tmp_path / "ours", tmp_path / "scratch")
    models = [
        {"model": str(student), "parameters": parameters}
        for student, parameters in zip(students, by_model or [{}] * 2, strict=True)
    ]
    config: dict[str, Any] = {"merge_method": peer, "models": models, "parameters": shared, "dtype": "float32"}
    if name not in ("linear", "karcher"):
        config["base_model"] = str(students[0] if name == "slerp" else base)
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "theirs"), options)
    ours, reference = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == reference.keys() and ("lm_head.weight" in ours) == ("untied" in str(base))
    plain = load_file(base / "model.safetensors")
    for tensor_name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, reference[tensor_name], atol=TOLERANCE, rtol=0, msg=lambda m, n=tensor_name: f"{n}: {m}"
        )
        assert not torch.equal(tensor, plain[tensor_name]), "a merge that leaves the base would prove nothing"


def throw_our_coins(base: Path, students: list[Path]) -> Callable[..., torch.Tensor]:
    """Mergekit's own masking and rescaling with our coins: its own are drawn from the global generator, in order of execution."""
    import mergekit.sparsify

    states = [load_file(student / "model.safetensors") for student in students]
    origin = load_file(base / "model.safetensors")

    def sparsify(delta: torch.Tensor, density: float, method: Any, rescale_norm: Any, **_: Any) -> torch.Tensor:
        [(tensor_name, index)] = [
            (name, index)
            for index, state in enumerate(states)
            for name, tensor in state.items()
            if tensor.shape == delta.shape and torch.equal(tensor - origin[name], delta)
        ]
        mask = torch.rand(delta.numel(), generator=coins(0, tensor_name, index)).reshape(delta.shape) < density
        return mergekit.sparsify.rescaled_masked_tensor(delta, mask.to(delta.dtype), rescale_norm)

    return sparsify
