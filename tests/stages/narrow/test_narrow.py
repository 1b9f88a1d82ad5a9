"""The narrow stage: plain smaller models, forecasts that come true, budgets met, depth and width together, one line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from attar.compressors.models.blocks import decoder_blocks
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES
from attar.stages.narrow.stage import NarrowConfig, NarrowInputs, narrow
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

IDS = torch.arange(3, 43)[None]


def narrowed(config: dict, model: ModelArtifact, data: DatasetArtifact | None, store: Store) -> ModelArtifact:
    config = {"multiple_of": 8, "num_samples": 4, "max_tokens": 48, "precision": "float32"} | config
    return narrow.execute(
        NarrowConfig(**config), NarrowInputs(model=model, data=(data,) if data else ()), store
    ).artifact


def ingest(family: str, store: Store) -> ModelArtifact:
    config = IngestModelConfig(source=f"random:{family}?num_blocks=4&seed=1")
    return ingest_model.execute(config, NoInputs(), store).artifact


def metrics(artifact: ModelArtifact, name: str) -> list[float]:
    lines = (artifact.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [entry["value"] for entry in map(json.loads, lines) if entry["name"] == name]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_narrows_to_a_plain_model_as_forecast(
    family: str, store: Store, questions: DatasetArtifact
) -> None:
    original = ingest(family, store)
    config = NarrowConfig(
        size={"parameter_fraction": 0.85, "multiple_of": 8}, calibration={"num_samples": 3, "max_tokens": 32}
    )
    forecast = narrow.forecast(config, {"model": (original.facts,), "data": ({},)})
    artifact = narrow.execute(config, NarrowInputs(model=original, data=(questions,)), store).artifact
    model = AutoModelForCausalLM.from_pretrained(artifact.path).eval()
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == artifact.facts["num_parameters"] == forecast.facts["num_parameters"]
    eight_channels = 8 * int(original.facts["ffn_channel_parameters"])
    assert 0 <= 0.85 * int(original.facts["num_parameters"]) - counted < eight_channels
    assert artifact.facts["num_ffn_channels"] == forecast.facts["num_ffn_channels"]
    assert artifact.facts["num_blocks"] == forecast.facts["num_blocks"] == 4
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in artifact.path.iterdir()}
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, use_cache=True, **options), model.generate(IDS, use_cache=False, **options))


@pytest.mark.parametrize("score", ["activation", "contribution", "taylor", "magnitude"])
def test_planted_channel_and_group_go_and_nothing_changes(
    score: str, store: Store, tmp_path: Path, questions: DatasetArtifact
) -> None:
    original = ingest("llama", store)
    model = AutoModelForCausalLM.from_pretrained(original.path)
    with torch.no_grad():
        for index, block in enumerate(decoder_blocks(model)):
            block.mlp.down_proj.weight[:, 10 + index] = 0
            block.mlp.gate_proj.weight[10 + index] = 0
            first = 32 * (index % 2)  # two query heads of 16
            block.self_attn.o_proj.weight[:, first : first + 32] = 0
            block.self_attn.v_proj.weight[first // 2 : first // 2 + 16] = 0
    model.save_pretrained(tmp_path / "planted")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "planted" / name).write_bytes((original.path / name).read_bytes())
    config = IngestModelConfig(source=f"folder:{tmp_path / 'planted'}")
    planted = ingest_model.execute(config, NoInputs(), store).artifact
    data = None if score == "magnitude" else questions
    artifact = narrowed({"num_ffn_channels": 127, "num_removed_groups": 1, "score": score}, planted, data, store)
    kept_units = json.loads((artifact.path / "records" / "kept_units.json").read_text())
    assert kept_units["groups"] == [[1], [0], [1], [0]]
    assert [set(range(128)) - set(channels) for channels in kept_units["channels"]] == [{10}, {11}, {12}, {13}]
    before, after = (load_model(some_artifact.path, "float32") for some_artifact in (planted, artifact))
    with torch.no_grad():
        torch.testing.assert_close(after(input_ids=IDS).logits, before(input_ids=IDS).logits, atol=1e-4, rtol=0)


def test_depth_and_width_combine_in_either_order(store: Store, questions: DatasetArtifact) -> None:
    """By weights alone the two cuts do not see each other: both orders give the same model."""
    original = ingest("llama", store)
    width = {"num_ffn_channels": 96, "num_removed_groups": 1, "score": "magnitude"}
    shorter = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=original), store).artifact
    deep_first = narrowed(width, shorter, None, store)
    thinner = narrowed(width, original, None, store)
    width_first = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=thinner), store).artifact
    assert deep_first.facts["num_parameters"] == width_first.facts["num_parameters"]
    assert (deep_first.facts["num_blocks"], deep_first.facts["num_kv_groups"]) == (3, 1)
    models = [AutoModelForCausalLM.from_pretrained(artifact.path).eval() for artifact in (deep_first, width_first)]
    with torch.no_grad():
        assert torch.equal(models[0](input_ids=IDS).logits, models[1](input_ids=IDS).logits)
    again = narrowed({"ffn_fraction": 0.5, "score": "taylor", "patch": "linear"}, width_first, questions, store)
    assert again.facts["num_ffn_channels"] == 48


def test_equal_to_blocks_is_the_size_of_the_pruned_model(store: Store, model: ModelArtifact) -> None:
    pruned = prune.execute(PruneConfig(blocks=[1, 2]), PruneInputs(model=model), store).artifact
    thin = narrowed({"equal_to_blocks": 2, "multiple_of": 1, "score": "random"}, model, None, store)
    missing = int(pruned.facts["num_parameters"]) - int(thin.facts["num_parameters"])
    assert 0 <= missing < int(model.facts["ffn_channel_parameters"])


def test_patch_brings_the_narrowed_model_closer_to_the_original(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    kl_between: Callable[[ModelArtifact, ModelArtifact, list[int]], float],
) -> None:
    size = {"num_ffn_channels": 80, "num_removed_groups": 1, "num_samples": 9, "max_tokens": 256}
    plain = narrowed(size, model, questions, store)
    patched = narrowed(size | {"patch": "linear"}, model, questions, store)
    assert plain.facts["num_parameters"] == patched.facts["num_parameters"]
    sample = training_samples(model.path, questions, 1, 64)[0]

    assert kl_between(model, patched, sample) < 0.8 * kl_between(model, plain, sample)
    for what in ("channels", "groups"):
        left = metrics(patched, f"{what}_patch_residual_fraction")
        assert len(left) == 4 and all(0.0 < share < 1.0 for share in left)
    refitted = narrowed(size | {"patch": "refit"}, model, questions, store)
    assert refitted.facts == patched.facts
    assert kl_between(model, refitted, sample) < 0.8 * kl_between(model, patched, sample)
    assert len(metrics(refitted, "refit_residual_fraction")) == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "nothing to remove: give num_removed_groups or one of num_ffn_channels, ffn_fraction"),
        ({"ffn_fraction": 0.5, "num_parameters": 10}, "ffn_fraction and num_parameters contradict: at most one"),
        ({"ffn_fraction": 1.0}, "ffn_fraction\n.*less than 1"),
        ({"ffn_fraction": -0.1}, "ffn_fraction\n.*greater than or equal to 0"),
        ({"parameter_fraction": 1.5}, "parameter_fraction\n.*less than 1"),
        ({"num_removed_groups": -1}, "num_removed_groups\n.*greater than or equal to 0"),
        ({"ffn_fraction": 0.5, "score": "tailor"}, "score: unknown method 'tailor'. Did you mean 'taylor'"),
        ({"ffn_fraction": 0.5, "params": {"seed": 1}}, "score: method 'taylor' has no parameter 'seed'"),
    ],
)
def test_config_that_cannot_work_is_refused(config: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NarrowConfig(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"ffn_fraction": 0.9},
            "ffn_fraction: 0.9 of 128 channels is 128 in multiples of 32: nothing would be removed",
        ),
        ({"num_ffn_channels": 128}, "num_ffn_channels is 128, but a block has 128; accepted: 1 to 127"),
        ({"num_removed_groups": 2}, "num_removed_groups is 2, but a block has 2 KV groups; accepted: at most 1"),
        ({"equal_to_blocks": 4}, "equal_to_blocks is 4, but the model has 4 blocks"),
        ({"num_parameters": 1000}, r"num_parameters: 1,000 parameters cannot be reached; accepted: 107,456 to 181,183"),
        ({"parameter_fraction": 0.3}, r"parameter_fraction: 54,355 parameters cannot be reached; accepted: 107,456 to"),
        ({"num_parameters": 181_184}, r"num_parameters: 181,184 parameters cannot be reached; accepted: 107,456 to"),
    ],
)
def test_sizes_out_of_reach_are_refused_while_planning_and_while_running(
    config: dict, message: str, model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    parsed = NarrowConfig(**config)
    with pytest.raises(ValueError, match=message):
        narrow.forecast(parsed, {"model": (model.facts,), "data": ({},)})
    with pytest.raises(ValueError, match=message):
        narrow.execute(parsed, NarrowInputs(model=model, data=(questions,)), store)


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"ffn_fraction": 0.5}, {}, "score is 'taylor' and patch 'none': they need the input `data`"),
        ({"ffn_fraction": 0.5, "score": "random", "patch": "linear"}, {}, "they need the input `data`"),
        ({"ffn_fraction": 0.5, "score": "random"}, {"data": ({},)}, "they read no `data`"),
    ],
)
def test_data_is_given_where_it_is_read(config: dict, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow.forecast(NarrowConfig(**config), {"model": ({},), **inputs})


def test_forecast_without_known_width_tells_what_the_budget_tells() -> None:
    facts = {"num_parameters": 1000, "num_blocks": 4, "hidden_size": 8}
    inputs = {"model": (facts,), "data": ({},)}
    assert narrow.forecast(NarrowConfig(size={"parameter_fraction": 0.8}), inputs).facts["num_parameters"] == 800
    assert narrow.forecast(NarrowConfig(size={"num_parameters": 700}), inputs).facts["num_parameters"] == 700
    assert "num_parameters" not in narrow.forecast(NarrowConfig(size={"ffn_fraction": 0.5}), inputs).facts


def test_family_whose_heads_cannot_go_is_refused_by_name(store: Store, questions: DatasetArtifact) -> None:
    with pytest.raises(ValueError, match="Olmo2ForCausalLM: q_norm is taken over all heads"):
        narrowed({"num_removed_groups": 1}, ingest("olmo2", store), questions, store)


def test_empty_data_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    empty = DatasetArtifact(tmp_path, {}, "empty", "empty")
    with pytest.raises(ValueError, match="no training rows"):
        narrow.run(NarrowConfig(size={"ffn_fraction": 0.5}), NarrowInputs(model=model, data=(empty,)), tmp_path)


def test_a_model_that_computes_no_numbers_is_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    broken = load_model(model.path, "float32")
    with torch.no_grad():
        decoder_blocks(broken)[1].mlp.up_proj.weight[3] = 3e38  # finite; what it makes of a text is not
    broken.save_pretrained(tmp_path / "broken")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "broken" / name).write_bytes((model.path / name).read_bytes())
    artifact = ModelArtifact(tmp_path / "broken", model.facts, "broken", "broken")
    config = NarrowConfig(
        size={"ffn_fraction": 0.5}, score="activation", calibration={"precision": "float32", "num_samples": 2}
    )
    with pytest.raises(ValueError, match="block 1: a score of its channels is not a finite number"):
        narrow.run(config, NarrowInputs(model=artifact, data=(questions,)), tmp_path)
