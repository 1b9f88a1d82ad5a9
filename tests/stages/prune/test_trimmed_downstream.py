"""A model of fewer tokens beside its original, and in the stages behind it: compared, taught, merged, exported, quantized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.compare.config import CompareConfig, CompareInputs
from attar.stages.compare.stage import compare
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from tests.stages.prune.worded import ingested, rows_of, sums, trimmed
from tests.trained_tokenizers import LINES

TRAINING = {
    "adapt": {"rank": 2},
    "schedule": {"max_steps": 2, "tokens_per_step": 256, "learning_rate": 1e-3},
    "compute": {"tokens_per_micro_batch": 256, "precision": "float32"},
    "heldout": {"every": 1},
}


@pytest.fixture(scope="module")
def original(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return ingested(shared_store, tmp_path_factory.mktemp("worded") / "model")


@pytest.fixture(scope="module")
def data(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    return sums(shared_store, tmp_path_factory.mktemp("rows") / "sums.jsonl")


@pytest.fixture(scope="module")
def small(shared_store: Store, original: ModelArtifact, data: DatasetArtifact) -> ModelArtifact:
    return trimmed(shared_store, original, data)


@pytest.fixture(scope="module")
def prose(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    """Text that chose no token."""
    rows = [{"text": line} for line in LINES[:5]]
    return rows_of(shared_store, tmp_path_factory.mktemp("texts") / "prose.jsonl", rows)


def test_compared_over_the_shared_tokens_nothing_is_lost(
    store: Store, original: ModelArtifact, small: ModelArtifact, data: DatasetArtifact, prose: DatasetArtifact
) -> None:
    """The original, renormalised, is what the trimmed model is: also on text in other pieces than the original's own."""
    config = CompareConfig(num_own_answers=2, max_new_tokens=6, precision="float32")
    inputs = CompareInputs(model=(small,), original=original, tasks=(data,), texts=(prose,))
    made = compare.execute(config, inputs, store).artifact
    content = json.loads((made.path / "comparison.json").read_text())
    for name, measures in content.items():
        assert abs(measures["kl_nats"]["value"]) < 1e-5, name
        assert measures["agreement"]["value"] == 1.0 and measures["perplexity_ratio"]["value"] == pytest.approx(
            1, abs=1e-5
        )


def test_two_students_of_other_sizes_are_compared_over_the_smaller_vocabulary(
    store: Store, original: ModelArtifact, small: ModelArtifact, data: DatasetArtifact
) -> None:
    shallow = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=original), store).artifact
    both = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=small), store).artifact
    config = CompareConfig(names=("shallow", "both"), against={"both": ("shallow",)}, precision="float32")
    made = compare.execute(
        config, CompareInputs(model=(shallow, both), original=original, tasks=(data,)), store
    ).artifact
    content = json.loads((made.path / "comparison.json").read_text())
    [name] = content["both"]
    assert content["both"][name]["kl_nats"]["value"] == pytest.approx(
        content["shallow"][name]["kl_nats"]["value"], abs=1e-5
    )
    assert abs(content["both minus shallow"][name]["kl_nats"]["value"]) < 1e-5


def test_a_vocabulary_of_other_tokens_is_no_part_of_the_originals(
    store: Store, original: ModelArtifact, data: DatasetArtifact, prose: DatasetArtifact
) -> None:
    first, second = trimmed(store, original, data, num_tokens=400), trimmed(store, original, prose, num_tokens=400)
    with pytest.raises(ValueError, match="vocabulary mismatch: model gives .* tokens another id"):
        compare.execute(CompareConfig(), CompareInputs(model=(first,), original=second, tasks=(data,)), store)
    with pytest.raises(
        ValueError, match=r"student 2 and student 1 give \d+ of \d+ tokens other ids, .+: they cannot be merged"
    ):
        merge.execute(MergeConfig(method="slerp", params={"t": 0.5}), MergeInputs(students=(first, second)), store)
    facts = {"model": (original.facts,), "original": (first.facts,), "tasks": ({},)}
    with pytest.raises(ValueError, match="vocabulary mismatch: model 480, original 400"):
        compare.forecast(CompareConfig(), facts)


def test_bits_a_byte_are_of_the_same_text_whatever_its_tokens(
    store: Store, original: ModelArtifact, small: ModelArtifact, prose: DatasetArtifact
) -> None:
    config = EvaluateConfig(num_samples=0, timing={"num_prompt_tokens": 8}, precision="float32")
    scores = {
        name: evaluate.execute(config, EvaluateInputs(model=model, text=prose, beside=beside), store).artifact
        for name, model, beside in (("original", original, small), ("small", small, original))
    }
    contents = {name: evaluation_of(artifact) for name, artifact in scores.items()}
    num_bytes = len("\n\n".join(LINES[:5]).encode())
    for content in contents.values():
        assert num_bytes * 0.97 < content["text_bytes"] <= num_bytes  # without the first token of the window
    counts = [sum(count for _, count in contents[name]["text_pieces"]) for name in ("small", "original")]
    assert counts[0] > counts[1], "the text is in other pieces"
    bits = [float(scores[name].facts["bits_per_byte"]) for name in ("small", "original")]
    ratio = paired_ratios(contents["small"], contents["original"])["perplexity"]
    assert ratio.low is not None and ratio.high is not None and ratio.low < ratio.value < ratio.high
    assert (ratio.value > 1) == (bits[0] > bits[1]) and ratio.measured_on.endswith(" bytes")


def test_the_untrimmed_original_teaches_over_the_tokens_that_stayed(
    store: Store, original: ModelArtifact, small: ModelArtifact, data: DatasetArtifact
) -> None:
    """Of the same weights, it has nothing to teach: the divergence before the first step is nought."""
    config = FinetuneConfig(objectives={"forward_kl": 1.0}, **TRAINING)
    facts = {"model": (small.facts,), "data": (data.facts,), "teacher": (original.facts,)}
    finetune.forecast(config, facts)
    made = finetune.execute(config, FinetuneInputs(model=small, data=(data,), teacher=original), store).artifact
    lines = (made.path / "records" / "metrics.jsonl").read_text().splitlines()
    curve = [entry["value"] for entry in map(json.loads, lines) if entry["name"] == "heldout_forward_kl_nats"]
    assert abs(curve[0]) < 1e-5
    with pytest.raises(ValueError, match=f"vocabulary mismatch: model 480, teacher {small.facts['vocab_size']} tokens"):
        finetune.forecast(config, facts | {"model": (original.facts,), "teacher": (small.facts,)})


def test_a_record_is_made_by_a_model_of_the_same_tokens(
    store: Store, original: ModelArtifact, small: ModelArtifact, data: DatasetArtifact
) -> None:
    config = FinetuneConfig(objectives={"forward_kl": 1.0}, **TRAINING)
    of_original = record.execute(RecordConfig(num_recorded=8), RecordInputs(model=original, data=data), store).artifact
    message = f"vocabulary mismatch: model {small.facts['vocab_size']}, recorded teacher 480 tokens; accepted: a record of a model"
    with pytest.raises(ValueError, match=message):
        finetune.forecast(config, {"model": (small.facts,), "data": (of_original.facts,)})
    of_small = record.execute(RecordConfig(num_recorded=8), RecordInputs(model=small, data=data), store).artifact
    finetune.forecast(config, {"model": (small.facts,), "data": (of_small.facts,)})
    assert finetune.execute(config, FinetuneInputs(model=small, data=(of_small,)), store).artifact.facts["num_steps"]


def test_its_graph_and_its_integers_are_those_of_a_smaller_model(
    store: Store, small: ModelArtifact, data: DatasetArtifact, tmp_path: Path
) -> None:
    graph = export.execute(
        ExportConfig(num_prompts=1, num_new_tokens=6), ExportInputs(model=small, data=data), store
    ).artifact
    assert graph.facts["vocab_size"] == small.facts["vocab_size"]
    config = QuantizeConfig(limits={"max_kl_nats": 1.0}, measured={"max_tokens": 32, "max_rows": 2, "num_samples": 2})
    made = quantize.execute(config, QuantizeInputs(model=graph, data=data), store).artifact
    assert made.facts["vocab_size"] == small.facts["vocab_size"]
