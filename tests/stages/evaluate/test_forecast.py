"""What the plan says of a node before it runs, against what it made: bytes within 5%, FLOPs a token within 2%."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attar.compressors.measure.cost import decode_flops, flops_per_token, num_matmul_parameters
from attar.compressors.models.blocks import remove_blocks
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.artifacts.model.size_forecast import blocks_over, flops_of_token, stored_bytes
from attar.stages.contract import NoInputs, Stage
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.narrow.stage import NarrowConfig, NarrowInputs, narrow
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

SIZE, FLOPS = 0.05, 0.02
NARROWER = NarrowConfig(size={"ffn_fraction": 0.5}, num_removed_groups=1, score="magnitude")
SHALLOWER = PruneConfig(blocks=[1, 2])


def ingest(store: Store, source: str) -> tuple[IngestModelConfig, ModelArtifact]:
    config = IngestModelConfig(source=source)
    return config, ingest_model.execute(config, NoInputs(), store).artifact


def check(stage: Stage, config, given: dict[str, tuple[Facts, ...]], made: ModelArtifact, store: Store) -> Facts:
    """Compare a forecast with what was made, and return the forecast's facts for the node behind."""
    forecast = stage.forecast(config, given)
    num_bytes = store.manifest(made)["num_bytes"]
    assert forecast.disk_bytes == pytest.approx(num_bytes, rel=SIZE), stage.name
    assert flops_of_token(forecast.facts) == pytest.approx(flops_of_token(made.facts), rel=FLOPS), stage.name
    assert flops_of_token(made.facts) > 0
    return forecast.facts


def test_a_chain_of_stages_is_told_from_the_source_alone(store: Store, questions: DatasetArtifact) -> None:
    """Nothing of the chain has run when the plan speaks: each forecast stands on the forecast before it."""
    config, original = ingest(store, "random:llama?num_blocks=6&hidden_size=96&seed=2")
    facts_now = check(ingest_model, config, {}, original, store)
    pruned = prune.execute(SHALLOWER, PruneInputs(model=original), store).artifact
    facts_now = check(prune, SHALLOWER, {"model": (facts_now,)}, pruned, store)
    thinner = narrow.execute(NARROWER, NarrowInputs(model=pruned), store).artifact
    facts_now = check(narrow, NARROWER, {"model": (facts_now,)}, thinner, store)
    method = MergeConfig(method="slerp", params={"t": 0.5})
    merged = merge.execute(method, MergeInputs(base=thinner, students=(thinner, thinner)), store).artifact
    facts_now = check(merge, method, {"base": (facts_now,), "students": (facts_now, facts_now)}, merged, store)
    proof = ExportConfig(num_prompts=1, num_new_tokens=4)
    graph = export.execute(proof, ExportInputs(model=merged, data=questions), store).artifact
    graph_told = check(export, proof, {"model": (facts_now,), "data": ({},)}, graph, store)
    scores = EvaluateConfig(max_rows=2, max_new_tokens=4, num_samples=0, timing={"num_prompt_tokens": 48})
    for facts, artifact in ((facts_now, merged), (graph_told, graph)):
        inputs = EvaluateInputs(model=artifact, tasks=(questions,))
        counted = json.loads((evaluate.execute(scores, inputs, store).artifact.path / "evaluation.json").read_text())
        forecast = evaluate.forecast(scores, {"model": (facts,), "tasks": ({},)})
        assert forecast.facts["flops_per_token"] == pytest.approx(counted["flops_per_token"], rel=FLOPS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_told_through_prune_and_narrow(store: Store, family: str) -> None:
    config, original = ingest(store, f"random:{family}?num_blocks=5&hidden_size=96")
    forecast = check(ingest_model, config, {}, original, store)
    pruned = prune.execute(SHALLOWER, PruneInputs(model=original), store).artifact
    forecast = check(prune, SHALLOWER, {"model": (forecast,)}, pruned, store)
    channels = NarrowConfig(size={"ffn_fraction": 0.5}, score="magnitude")
    thinner = narrow.execute(channels, NarrowInputs(model=pruned), store).artifact
    check(narrow, channels, {"model": (forecast,)}, thinner, store)


def test_a_bfloat16_folder_is_told_at_two_bytes_a_weight(store: Store, tmp_path: Path) -> None:
    model, tokenizer = random_model("llama", num_blocks=4, hidden_size=96)
    save_model(model.to(torch.bfloat16), tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    config, original = ingest(store, f"folder:{tmp_path / 'half'}")
    forecast = check(ingest_model, config, {}, original, store)
    pruned = prune.execute(SHALLOWER, PruneInputs(model=original), store).artifact
    check(prune, SHALLOWER, {"model": (forecast,)}, pruned, store)


def test_a_budget_of_parameters_is_told_in_blocks(store: Store) -> None:
    _, original = ingest(store, "random:llama?num_blocks=6&hidden_size=96")
    for num_removed in (1, 2, 5):
        model = load_model(original.path, "float32")
        remove_blocks(model, list(range(num_removed)))
        left = sum(parameter.numel() for parameter in model.parameters()) / int(original.facts["num_parameters"])
        assert blocks_over(original.facts, left) == num_removed
        assert blocks_over(original.facts, left - 1e-6) == num_removed + 1


def test_what_is_not_known_is_told_as_zero() -> None:
    assert stored_bytes({}) == 0.0 and flops_of_token({"num_matmul_parameters": 3}) == 0.0
    assert prune.forecast(PruneConfig(blocks=[0]), {"model": ({"num_blocks": 3},)}).facts == {"num_blocks": 2}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi3", "qwen3"])
def test_the_count_of_a_token_is_torchs_own(family: str) -> None:
    """Independent: torch counts the matrix products of one decoding step as it runs."""
    model, _ = random_model(family, num_blocks=3, hidden_size=96)
    model.set_attn_implementation("eager")  # the fused kernels of a CPU are not counted
    past = model(torch.ones(1, 31, dtype=torch.long), use_cache=True).past_key_values
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(1, 1, dtype=torch.long), past_key_values=past, use_cache=True)
    ours = flops_per_token(num_matmul_parameters(model), model.config, 32)
    window = getattr(model.config, "sliding_window", None)
    if window and "sliding_attention" in (getattr(model.config, "layer_types", None) or []):
        sliding = model.config.layer_types.count("sliding_attention")
        width = model.config.num_attention_heads * model.config.head_dim
        ours -= decode_flops(0, sliding, width, 32 - window)  # we count every block as if it saw the whole context
    assert ours == pytest.approx(counter.get_total_flops(), rel=FLOPS)
