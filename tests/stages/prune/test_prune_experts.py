"""The stage prune_experts: plain smaller models as forecast, records of what was seen, one line for what cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from attar.compressors.models.experts import moe_layers
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.expert_families import EXPERT_FAMILIES
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.experts.config import PruneExpertsConfig, PruneExpertsInputs
from attar.stages.prune.experts.stage import prune_experts

IDS = torch.arange(3, 43)[None]
CALIBRATION = {"num_samples": 4, "max_tokens": 48, "precision": "float32"}


def ingest(family: str, store: Store) -> ModelArtifact:
    config = IngestModelConfig(source=f"random:{family}?num_blocks=3&hidden_size=32&seed=1")
    return ingest_model.execute(config, NoInputs(), store).artifact


def pruned(config: dict, model: ModelArtifact, data: DatasetArtifact | None, store: Store) -> ModelArtifact:
    inputs = PruneExpertsInputs(model=model, data=(data,) if data else ())
    return prune_experts.execute(PruneExpertsConfig(**{"calibration": CALIBRATION} | config), inputs, store).artifact


def metrics(artifact: ModelArtifact, name: str) -> list[float]:
    lines = (artifact.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [entry["value"] for entry in map(json.loads, lines) if entry["name"] == name]


def table(artifact: ModelArtifact) -> list[dict[str, str]]:
    with (artifact.path / "records" / "expert_scores.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_every_family_comes_out_plain_and_as_forecast(family: str, store: Store, questions: DatasetArtifact) -> None:
    original = ingest(family, store)
    assert original.facts["num_experts"] == 8 and original.facts["num_experts_per_token"] == 2
    config = PruneExpertsConfig(num_experts=6, calibration=CALIBRATION)
    forecast = prune_experts.forecast(config, {"model": (original.facts,), "data": ({},)})
    artifact = pruned({"num_experts": 6}, original, questions, store)
    model = AutoModelForCausalLM.from_pretrained(artifact.path).eval()
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert (
        counted
        == artifact.facts["num_parameters"]
        == forecast.facts["num_parameters"]
        < original.facts["num_parameters"]
    )
    for name in ("num_experts", "num_idle_parameters", "expert_parameters", "num_blocks"):
        assert artifact.facts[name] == forecast.facts[name], name
    assert artifact.facts["num_experts"] == 6
    # a router's bias is no matrix: at most a number an expert and block
    assert abs(int(artifact.facts["num_matmul_parameters"]) - int(forecast.facts["num_matmul_parameters"])) <= 6
    assert metrics(artifact, "proof_masked_router_error")[0] < 1e-5
    assert len(metrics(artifact, "kept_expert_score_fraction")) == len(moe_layers(model))
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, use_cache=True, **options), model.generate(IDS, use_cache=False, **options))


@pytest.mark.parametrize(
    "method", ["reap", "frequency", "router_weight", "activation_norm", "magnitude", "random", "merge"]
)
def test_the_record_says_what_was_seen_and_what_stayed(method: str, store: Store, questions: DatasetArtifact) -> None:
    original = ingest("mixtral", store)
    reads_data = method not in ("magnitude", "random")
    artifact = pruned({"fraction": 0.5, "method": method}, original, questions if reads_data else None, store)
    rows = table(artifact)
    assert len(rows) == 3 * 8
    layers, kept_layers = (moe_layers(load_model(made.path, "float32")) for made in (original, artifact))
    for block, (layer, kept_layer) in enumerate(zip(layers, kept_layers, strict=True)):
        own = rows[block * 8 : block * 8 + 8]
        stays = [row for row in own if row["stays_as"]]
        if method != "merge":
            scores = [float(row["score"]) for row in own]
            assert sorted(scores)[4:] == sorted(float(row["score"]) for row in stays)
            for row in stays:
                new, old = int(row["stays_as"]), int(row["expert"])
                assert torch.equal(kept_layer.router.weight[new], layer.router.weight[old])
                assert torch.equal(kept_layer.experts.down_proj[new], layer.experts.down_proj[old])
        else:
            assert {int(row["stays_as"]) for row in stays} == {0, 1, 2, 3}
        if reads_data:
            assert sum(float(row["tokens"]) for row in own) > 0


def test_random_takes_a_seed_and_needs_no_data(store: Store) -> None:
    original = ingest("qwen3_moe", store)
    made = [
        pruned({"num_experts": 4, "method": "random", "params": {"seed": seed}}, original, None, store)
        for seed in (0, 1)
    ]
    assert len({artifact.fingerprint for artifact in made}) == 2


def test_half_precision_is_proved_too(store: Store, questions: DatasetArtifact, tmp_path: Path) -> None:
    original = ingest("glm4_moe", store)
    model = load_model(original.path, "auto").to(torch.bfloat16)
    folder = save_model(model, tmp_path / "half", tokenizer_from=original.path).path
    half = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    artifact = pruned({"num_experts": 4}, half, questions, store)
    assert artifact.facts["dtype"] == "bfloat16"
    assert metrics(artifact, "proof_masked_router_error")[0] < 1e-5


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "num_experts and fraction: neither is given"),
        ({"num_experts": 4, "fraction": 0.5}, "num_experts and fraction: both are given"),
        ({"num_experts": 4, "method": "reep"}, "unknown method 'reep'. Did you mean 'reap'"),
        (
            {"num_experts": 4, "method": "merge", "params": {"router": "sum"}},
            "router is 'sum'; accepted: dominant, mean",
        ),
    ],
)
def test_a_wrong_config_dies_as_it_loads(config: dict, line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        PruneExpertsConfig(**config)


@pytest.mark.parametrize(
    ("family", "config", "line"),
    [
        ("mixtral", {"num_experts": 1}, "num_experts is 1, but a token goes to 2 experts; accepted: 2 to 7"),
        ("mixtral", {"num_experts": 8}, "num_experts is 8, but a block has 8 experts; accepted: 2 to 7"),
        ("mixtral", {"fraction": 0.05}, "fraction 0.05 of 8 experts is 0, but a token goes to 2 experts"),
        ("deepseek_v3", {"num_experts": 5}, "among 1 of 2 equal groups; accepted: 4, 6"),
        ("llama", {"num_experts": 4}, "it has no experts; prune takes its blocks, narrow its channels"),
    ],
)
def test_what_cannot_be_is_refused_before_and_while_it_runs(
    family: str, config: dict, line: str, store: Store, questions: DatasetArtifact
) -> None:
    original = ingest(family, store)
    with pytest.raises(ValueError, match=line):
        prune_experts.forecast(PruneExpertsConfig(**config), {"model": (original.facts,), "data": ({},)})
    with pytest.raises(ValueError, match=line):
        pruned(config, original, questions, store)


def test_data_is_asked_for_by_the_methods_that_read_it(store: Store) -> None:
    model = ingest("mixtral", store).facts
    with pytest.raises(ValueError, match="method is 'reap': it needs the input `data`"):
        prune_experts.forecast(PruneExpertsConfig(num_experts=4), {"model": (model,)})
    with pytest.raises(ValueError, match="method is 'random': it reads no `data`"):
        prune_experts.forecast(PruneExpertsConfig(num_experts=4, method="random"), {"model": (model,), "data": ({},)})
