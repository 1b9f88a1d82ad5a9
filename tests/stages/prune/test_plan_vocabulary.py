"""The vocabulary as an axis of a plan: measured on texts that did not choose it, cut with its tokenizer, closeness over both vocabularies."""

from __future__ import annotations

import json

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, ScanArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.scan.candidates import read_problem
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.vocabulary import read_vocabulary
from tests.stages.prune.worded import ingested, sums

AXES = ["depth", "channels", "vocabulary"]
SMALL = {"num_samples": 4, "max_tokens": 32}


@pytest.fixture(scope="module")
def original(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return ingested(shared_store, tmp_path_factory.mktemp("worded") / "model")


@pytest.fixture(scope="module")
def data(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    return sums(shared_store, tmp_path_factory.mktemp("rows") / "sums.jsonl")


@pytest.fixture(scope="module")
def measured(shared_store: Store, original: ModelArtifact, data: DatasetArtifact) -> ScanArtifact:
    candidates = {"axes": AXES, "vocabulary_fractions": [0.7, 0.85], "channel_step": 8, "num_vocabulary_samples": 2}
    config = ScanConfig(candidates=candidates, calibration=SMALL)
    return scan.execute(config, ScanInputs(model=original, data=data), shared_store).artifact


def test_fewer_tokens_save_their_rows_and_lose_more(measured: ScanArtifact, original: ModelArtifact) -> None:
    problem, _ = read_problem(measured.path)
    items = sorted((item for item in problem.items if item.axis == "vocabulary"), key=lambda item: item.amount)
    assert [item.amount for item in items] == [round(share * 480) for share in (0.7, 0.85)]
    for item in items:
        assert item.savings["parameters"] == 2 * 32 * (480 - item.amount)  # untied: embedding and head
        tokens = read_vocabulary(measured.path, item.amount)
        assert len(tokens.kept_ids) == item.amount
        assert not {*tokens.kept_ids} & tokens.pieces.keys()
        assert all({*pieces} <= {*tokens.kept_ids} for pieces in tokens.pieces.values())
    assert items[0].loss_nats >= items[1].loss_nats >= 0


def test_a_plan_cuts_the_vocabulary_with_its_tokenizer(
    measured: ScanArtifact, original: ModelArtifact, data: DatasetArtifact, store: Store
) -> None:
    config = PruneConfig(
        plan={"budget": {"parameters": 0.8}, "axes": ["vocabulary", "channels"]}, patch={"kind": "refit", **SMALL}
    )
    artifact = prune.execute(config, PruneInputs(model=original, scan=measured, data=(data,)), store).artifact
    record = json.loads((artifact.path / "records" / "plan.json").read_text())
    taken = {item["axis"]: item["where"] for item in record["items"]}
    size = int(artifact.facts["vocab_size"])
    assert taken["vocabulary"].startswith(f"{size:,} of 480")
    assert artifact.facts["num_parameters"] == record["left"]["parameters"]
    whole, own = load_tokenizer(original.path), load_tokenizer(artifact.path)
    assert len(own.get_vocab()) == size
    text = "What is 7 plus 5? The sum of 7 and 5 is 12."
    assert own.decode(own(text).input_ids) == whole.decode(whole(text).input_ids)
    if record["measured_nats"]:
        assert record["measured_nats"]["value"] > 0


def test_a_tokenizer_whose_tokens_all_must_stay_is_refused(
    model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    config = ScanConfig(candidates={"axes": ["vocabulary"]}, calibration=SMALL)
    with pytest.raises(ValueError, match="vocabulary_fractions is .* take more of 259 tokens"):
        scan.execute(config, ScanInputs(model=model, data=questions), store)
