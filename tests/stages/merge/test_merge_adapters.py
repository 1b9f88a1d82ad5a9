"""Adapters of one base merged as adapters: what folds to the same model, what is lost is told, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.merge.adapters import Factors
from attar.compressors.merge.fold import adapter_pairs
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.adapter_proof import prove_adapter
from attar.stages.merge.adapters import MergeAdaptersConfig, MergeAdaptersInputs, merge_adapters
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge


def train(store: Store, model: ModelArtifact, data: DatasetArtifact, **changes: object) -> AdapterArtifact:
    options = {"rank": 4, "num_epochs": 2, "learning_rate": 5e-3, "tokens_per_step": 512, "precision": "float32"}
    config = FinetuneConfig(**(options | changes))  # type: ignore[arg-type]
    return finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact


@pytest.fixture(scope="module")
def adapters(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> tuple[AdapterArtifact, ...]:
    """Of different ranks, scales and matrices."""
    return (
        train(shared_store, model, questions),
        train(shared_store, model, questions, seed=1, rank=6, method="rslora", targets=["q_proj", "down_proj"]),
    )


def folded(store: Store, model: ModelArtifact, adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    merged = merge.execute(MergeConfig(), MergeInputs(base=model, students=(adapter,)), store).artifact
    return load_file(merged.path / "model.safetensors")


@pytest.mark.parametrize(("method", "params"), [("concat", {}), ("svd", {"rank": 10})])
def test_an_exact_merge_folds_to_the_model_with_both_updates(
    method: str, params: dict, store: Store, model: ModelArtifact, adapters: tuple
) -> None:
    config = MergeAdaptersConfig(method=method, params=params, weights=[0.8, 0.5], max_error=1e-5)
    joined = merge_adapters.execute(config, MergeAdaptersInputs(adapters=adapters), store).artifact
    assert joined.facts["rank"] == 10 and joined.facts["base_fingerprint"] == model.fingerprint
    plain = MergeConfig(method="task_arithmetic", params={"weights": [0.8, 0.5]})
    expected = merge.execute(plain, MergeInputs(base=model, students=adapters), store).artifact
    for name, tensor in folded(store, model, joined).items():
        torch.testing.assert_close(tensor, load_file(expected.path / "model.safetensors")[name], atol=1e-6, rtol=0)


def test_on_its_base_the_written_adapter_is_tried(store: Store, model: ModelArtifact, adapters: tuple) -> None:
    inputs = MergeAdaptersInputs(adapters=adapters, base=model)
    joined = merge_adapters.execute(MergeAdaptersConfig(method="svd", params={"rank": 3}), inputs, store).artifact
    lines = (joined.path / "records" / "metrics.jsonl").read_text().splitlines()
    metrics = {entry["name"]: entry["value"] for entry in map(json.loads, lines)}
    assert 0 <= metrics["proof_cache_error"] < 1e-3 and 0 <= metrics["fold_max_logit_error"] < 1e-3
    assert metrics["fold_max_logit_change"] > 1e-2, "the adapter does something"
    other = ingest_model.execute(IngestModelConfig(source="random:llama?seed=8"), NoInputs(), store).artifact
    with pytest.raises(
        ValueError, match="base is model .*, the adapters were trained on .*; accepted: that one, or none"
    ):
        merge_adapters.execute(MergeAdaptersConfig(), MergeAdaptersInputs(adapters=adapters, base=other), store)


@pytest.mark.parametrize("damage", ["other numbers", "one fewer", "scale"])
def test_a_written_adapter_that_is_not_what_was_merged_fails(
    damage: str, store: Store, adapters: tuple, tmp_path: Path
) -> None:
    joined = merge_adapters.execute(MergeAdaptersConfig(), MergeAdaptersInputs(adapters=adapters), store).artifact
    folder = Path(shutil.copytree(joined.path, tmp_path / "joined"))
    pairs = adapter_pairs(load_file(folder / "adapter_model.safetensors"))
    merged = {target: Factors(pair.down, pair.up) for target, pair in pairs.items()}
    prove_adapter(folder, merged, None)
    first = min(merged)
    if damage == "other numbers":
        merged[first] = Factors(merged[first].down, merged[first].up + 1e-6)
    elif damage == "one fewer":
        del merged[first]
    else:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    with pytest.raises(
        ValueError, match=f"merge_adapters: {re.escape(first)} in the written file is not what was merged"
    ):
        prove_adapter(folder, merged, None)


def test_what_a_lower_rank_loses_is_told_and_can_be_too_much(store: Store, adapters: tuple) -> None:
    inputs = MergeAdaptersInputs(adapters=adapters)
    small = merge_adapters.execute(MergeAdaptersConfig(method="svd", params={"rank": 1}), inputs, store).artifact
    lines = (small.path / "records" / "metrics.jsonl").read_text().splitlines()
    lost_fraction = next(entry["value"] for entry in map(json.loads, lines) if entry["name"] == "max_relative_error")
    assert 0.01 < lost_fraction == small.facts["max_relative_error"] < 1.0
    config = MergeAdaptersConfig(method="svd", params={"rank": 1}, max_error=0.01)
    with pytest.raises(ValueError, match=r"the result misses 0\.\d+ of the weighted sum; accepted: max_error 0\.01"):
        merge_adapters.execute(config, inputs, store)


def test_the_same_adapters_give_the_same_bytes(store: Store, adapters: tuple) -> None:
    inputs, config = MergeAdaptersInputs(adapters=adapters), MergeAdaptersConfig(method="svd")
    made = [merge_adapters.execute(config, inputs, store, is_forced=True).artifact for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint and made[0].facts["rank"] == 6


def test_a_merged_adapter_can_be_merged_again(store: Store, model: ModelArtifact, adapters: tuple) -> None:
    first = adapters[0]
    for method, error in (("concat", 0.0), ("svd", 0.0), ("linear", 1.0)):  # PEFT's linear doubles what two agree on
        twice = MergeAdaptersInputs(adapters=(first, first))
        same = merge_adapters.execute(MergeAdaptersConfig(method=method), twice, store).artifact
        assert same.facts["max_relative_error"] == pytest.approx(error, abs=1e-5)
    config = MergeAdaptersConfig(method="svd", weights=[0.5, 0.125])
    again = merge_adapters.execute(config, MergeAdaptersInputs(adapters=(first, same)), store).artifact
    before, after, base = (
        folded(store, model, first),
        folded(store, model, again),
        load_file(model.path / "model.safetensors"),
    )
    for name, tensor in before.items():  # 0.5 + 0.125 * 2
        torch.testing.assert_close(after[name], base[name] + 0.75 * (tensor - base[name]), atol=1e-6, rtol=0)


def test_what_cannot_be_merged_is_refused_in_one_line(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, adapters: tuple
) -> None:
    def refusal(*chosen: AdapterArtifact, **config: object) -> str:
        with pytest.raises(ValueError) as caught:
            merge_adapters.execute(MergeAdaptersConfig(**config), MergeAdaptersInputs(adapters=chosen), store)  # type: ignore[arg-type]
        return str(caught.value)

    assert refusal(adapters[0]) == "adapters: takes 2 or more, not 1"
    assert refusal(*adapters, weights=[1.0]) == "weights has 1 entries for 2 adapters"
    assert "ranks 4, 6: method 'linear' adds factors of one rank" in refusal(*adapters, method="linear")
    other = ingest_model.execute(IngestModelConfig(source="random:llama?seed=9"), NoInputs(), store).artifact
    assert "the adapters were trained on models" in refusal(adapters[0], train(store, other, questions))
    dora = train(store, model, questions, method="dora")
    assert "one of method 'dora' is no sum of updates" in refusal(adapters[0], dora)
    full = train(store, model, questions, method="last_blocks", num_last_blocks=1, learning_rate=1e-3)
    assert "one of method 'last_blocks' trained the weights themselves" in refusal(full, adapters[0])
    with pytest.raises(ValueError, match="unknown method 'sdv'. Did you mean 'svd'"):
        MergeAdaptersConfig(method="sdv")
    with pytest.raises(ValueError, match="rank is -1"):
        MergeAdaptersConfig(method="svd", params={"rank": -1})
