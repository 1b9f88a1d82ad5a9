"""The scan stage and the choice that prune makes of it: every metric, every budget, every refusal."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from attar.compressors.prune.depth.metrics import BLOCK_METRICS, PATCH_METRICS, REMOVAL_METRICS
from attar.pipelines.report.page import _heat_map  # the chart must take every table a scan can make
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, ScanArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.scan.config import ScanConfig, scan_facts
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import read_costs, read_order, read_scores

SMALL = {"num_samples": 4, "num_loss_samples": 2, "max_tokens": 32}


@pytest.fixture(scope="module")
def everything(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> ScanArtifact:
    """A scan with every metric of the catalogue."""
    config = ScanConfig(
        metrics=list(BLOCK_METRICS),
        sizes=[1, 2],
        greedy={"num_steps": 2, "protect_first": 1},
        measure_latency=True,
        **SMALL,
    )
    return scan.execute(config, ScanInputs(model=model, data=questions), shared_store).artifact


def removed(config: dict[str, Any], model: ModelArtifact, scanned: ScanArtifact, store: Store) -> list[int]:
    artifact = prune.execute(PruneConfig(**config), PruneInputs(model=model, scan=scanned), store).artifact
    return list(artifact.facts["removed_blocks"])


@pytest.mark.parametrize("name", BLOCK_METRICS)
def test_each_metric_has_its_scores_and_chooses_a_window(
    name: str, everything: ScanArtifact, model: ModelArtifact, store: Store
) -> None:
    scores = read_scores(everything.path / "windows.csv", name)
    sizes = [1, 2] if name in PATCH_METRICS or name in REMOVAL_METRICS else [1, 2, 3, 4]
    first = 1 if name in PATCH_METRICS else 0
    assert sorted(scores) == sorted((start, size) for size in sizes for start in range(first, 5 - size))
    lowest = min((start for start, size in scores if size == 2), key=lambda start: scores[start, 2])
    assert removed({"num_blocks": 2, "metric": name}, model, everything, store) == [lowest, lowest + 1]
    assert "<svg" in _heat_map(everything, [lowest, lowest + 1], name)


@pytest.mark.parametrize("name", [name for name in BLOCK_METRICS if name not in PATCH_METRICS])
def test_each_metric_of_blocks_chooses_freely(
    name: str, everything: ScanArtifact, model: ModelArtifact, store: Store
) -> None:
    config = {"num_blocks": 2, "metric": name, "choice": "free", "protect_first": 1}
    if name in REMOVAL_METRICS:
        expected = read_order(everything.path / "greedy.csv", name)
        assert len(expected) == 2 and 0 not in expected
    else:
        scores = read_scores(everything.path / "windows.csv", name)
        expected = sorted(range(1, 4), key=lambda index: scores[index, 1])[:2]
    assert removed(config, model, everything, store) == sorted(expected)


def test_tables_are_plain_and_complete(everything: ScanArtifact, model: ModelArtifact) -> None:
    with (everything.path / "greedy.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["metric"] for row in rows] == ["perplexity_increase"] * 2 + ["kl_increase"] * 2
    assert [row["step"] for row in rows] == ["0", "1", "0", "1"]
    costs = {name: read_costs(everything.path / "costs.csv", name) for name in ("parameters", "flops", "latency")}
    spread = [read_costs(everything.path / "costs.csv", f"latency{end}").blocks for end in ("_low", "", "_high")]
    assert all(low <= median <= high for low, median, high in zip(*spread, strict=True)), "a time has its quartiles"
    assert costs["parameters"].total == model.facts["num_parameters"]
    assert all(len(cost.blocks) == 4 and cost.total > 0 for cost in costs.values())
    assert everything.facts["metrics"] == tuple(BLOCK_METRICS) and everything.facts["sizes"] == (1, 2)


@pytest.mark.parametrize("quantity", ["parameters", "flops", "latency"])
def test_a_budget_is_met_with_as_few_blocks_as_it_takes(
    quantity: str, everything: ScanArtifact, model: ModelArtifact, store: Store
) -> None:
    costs = read_costs(everything.path / "costs.csv", quantity)
    kept_fraction = 1.0 - 1.5 * max(costs.blocks) / costs.total
    for choice in ("window", "free"):
        config = {"keep_fraction": {quantity: kept_fraction}, "choice": choice}
        gone = removed(config, model, everything, store)
        assert sum(costs.blocks[index] for index in gone) >= (1.0 - kept_fraction) * costs.total
        assert len(gone) == 2 or quantity == "latency"
    if quantity == "parameters":
        artifact = prune.execute(PruneConfig(**config), PruneInputs(model=model, scan=everything), store).artifact
        assert artifact.facts["num_parameters"] <= kept_fraction * model.facts["num_parameters"]


def test_what_the_default_scan_did_not_measure_chooses_nothing(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    scanned = scan.execute(ScanConfig(**SMALL), ScanInputs(model=model, data=questions), store).artifact
    assert not (scanned.path / "greedy.csv").exists()
    assert "latency" not in (scanned.path / "costs.csv").read_text()
    with pytest.raises(ValueError, match="the scan has no windows scored by 'taylor'"):
        removed({"num_blocks": 1, "metric": "taylor"}, model, scanned, store)
    with pytest.raises(ValueError, match="the scan did not measure latency; set measure_latency in the scan"):
        removed({"keep_fraction": {"latency": 0.9}}, model, scanned, store)
    with pytest.raises(ValueError, match="the scan has no greedy order by 'kl_increase'"):
        removed({"num_blocks": 1, "metric": "kl_increase", "choice": "free"}, model, scanned, store)
    with pytest.raises(ValueError, match="parameters must go, but at most"):
        removed({"keep_fraction": {"parameters": 0.05}}, model, scanned, store)


def test_a_patched_window_never_begins_at_block_0(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, everything: ScanArtifact
) -> None:
    """Block 0 has no block before it that could take a patch, so the next best window goes."""
    tables = {name: read_scores(everything.path / "windows.csv", name) for name in BLOCK_METRICS}
    name = next(name for name, scores in tables.items() if (0, 3) in scores and scores[0, 3] < scores[1, 3])
    config = {"num_blocks": 3, "metric": name}
    assert removed(config, model, everything, store) == [0, 1, 2]
    patched = PruneConfig(**config, patch={"kind": "linear", "weight": "norm"})
    inputs = PruneInputs(model=model, scan=everything, data=(questions,))
    assert prune.execute(patched, inputs, store).artifact.facts["removed_blocks"] == (1, 2, 3)


def test_tokens_and_first_token_change_the_scores(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    options = [{}, {"tokens": "last"}, {"tokens": "answer"}, {"skip_first": True}, {"prepend_bos": True}]
    seen = []
    for option in options:
        inputs = ScanInputs(model=model, data=questions)
        config = ScanConfig(calibration={"num_samples": 4, "max_tokens": 64}, metrics=["block_influence"], **option)
        scanned = scan.execute(config, inputs, store).artifact
        seen.append(read_scores(scanned.path / "windows.csv", "block_influence")[0, 1])
    # the byte tokenizer's template begins with the first token already: nothing to prepend
    assert len(set(seen)) == 4 and seen[0] == seen[4]


def test_answer_and_first_token_are_where_they_should_be(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(model.path)
    for sample in calibration_samples(model.path, questions, 4, 200):
        assert tokenizer.decode(sample.ids[sample.answer_start :]).startswith("The sum of ")
    text = ingested(store, tmp_path, "The boat came in at dawn. " * 20)
    for sample in calibration_samples(model.path, text, 100, 64, prepend_bos=True):
        assert sample.ids[0] == tokenizer.bos_token_id and len(sample.ids) <= 64 and sample.answer_start == 0
    joined = [sample.ids for sample in calibration_samples(model.path, text, 100, 64)]
    assert sum(map(len, joined)) == len("The boat came in at dawn. " * 20), "without: nothing added or lost"


def ingested(store: Store, folder: Path, text: str) -> DatasetArtifact:
    (folder / "text.txt").write_text(text)
    config = IngestDataConfig(source=f"text:{folder / 'text.txt'}", heldout_fraction=0.0)
    return ingest_data.execute(config, NoInputs(), store).artifact


def test_text_shorter_than_one_piece_is_refused(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    short = ingested(store, tmp_path, "The boat came in at dawn.")
    with pytest.raises(ValueError, match="the calibration text has 25 tokens, less than one piece of max_tokens = 256"):
        scan.execute(ScanConfig(), ScanInputs(model=model, data=short), store)
    assert scan.execute(ScanConfig(calibration={"max_tokens": 16}), ScanInputs(model=model, data=short), store).artifact


def test_a_data_set_without_training_rows_is_refused(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Why?", "answer": "So."}))
    config = IngestDataConfig(source=f"jsonl:{tmp_path / 'rows.jsonl'}", heldout_fraction=0.0)
    data = ingest_data.execute(config, NoInputs(), store).artifact
    (data.path / "rows.jsonl").chmod(0o644)
    rows = [json.loads(line) | {"split": "heldout"} for line in (data.path / "rows.jsonl").read_text().splitlines()]
    empty = DatasetArtifact.at(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="the data set has no training rows to calibrate on"):
        calibration_samples(model.path, empty, 4, 64)


def test_no_answer_within_the_cut_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    config = ScanConfig(calibration={"max_tokens": 8, "tokens": "answer"})
    with pytest.raises(ValueError, match="tokens is 'answer', but no answer begins within max_tokens = 8"):
        scan.execute(config, ScanInputs(model=model, data=questions), store)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metrics": ["tailor"]}, "unknown metric 'tailor'. Did you mean 'taylor'?"),
        ({"metrics": []}, "at least one metric, each once, is accepted"),
        ({"metrics": ["taylor", "taylor"]}, "at least one metric, each once, is accepted"),
        ({"metrics": ["patch_residual"]}, "scores one window size at a time: list `sizes`"),
        ({"sizes": [2]}, "only patch_residual and the increases use it"),
        ({"metrics": ["patch_residual"], "sizes": [0]}, "accepted: 1 and above"),
        ({"metrics": ["kl_increase"], "num_greedy_steps": 0}, "metric kl_increase has nothing to score"),
        ({"tokens": "first"}, "Input should be 'all', 'last' or 'answer'"),
    ],
)
def test_wrong_scan_configs_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ScanConfig(**config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"keep_fraction": {"parameters": 1.2}}, "keep_fraction.parameters is 1.2; accepted: above 0 and below 1"),
        ({"keep_fraction": {"memory": 0.5}}, "Input should be 'blocks', 'parameters', 'flops' or 'latency'"),
        ({"keep_fraction": {"flops": 0.5}, "num_blocks": 2}, "num_blocks and keep_fraction contradict: both given"),
        ({"num_blocks": 2, "choice": "free", "metric": "patch_residual"}, "scores windows, not single blocks"),
        ({"num_blocks": 2, "choice": "free", "patch": "linear"}, "it repairs one cut"),
        ({"num_blocks": 2, "metric": "block_influense"}, "Did you mean 'block_influence'?"),
    ],
)
def test_wrong_choices_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PruneConfig(**config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "scanned", "message"),
    [
        (
            {"num_blocks": 2, "metric": "taylor"},
            {},
            "metric is 'taylor', which the scan does not compute; it has angular",
        ),
        ({"keep_fraction": {"latency": 0.9}}, {}, "keep_fraction.latency needs a scan with measure_latency: true"),
        (
            {"num_blocks": 3, "metric": "patch_residual"},
            {"metrics": ["patch_residual"], "sizes": [2]},
            r"patch_residual was not computed for windows of 3 blocks; the scan's sizes: \[2\]",
        ),
        (
            {"num_blocks": 3, "metric": "kl_increase", "choice": "free"},
            {"metrics": ["kl_increase"], "num_greedy_steps": 2},
            "num_blocks is 3, but the scan's num_greedy_steps is 2",
        ),
        (
            {"num_blocks": 2, "protect_first": 2, "protect_last": 1},
            {},
            "2 blocks must go, but at most 1 can: 1 of 4 blocks",
        ),
        (
            {"num_blocks": 2, "protect_first": 2, "protect_last": 2},
            {},
            "protect all 4 blocks; accepted: together at most 3",
        ),
        (
            {"blocks": [0, 2], "protect_first": 1},
            {},
            r"blocks names \[0\], which protect_first or protect_last protects",
        ),
    ],
)
def test_choices_that_the_facts_rule_out_are_refused_before_anything_runs(
    config: dict, scanned: dict, message: str
) -> None:
    facts = {"model": ({"num_blocks": 4},), "scan": ({"num_blocks": 4, **scan_facts(ScanConfig(**scanned))},)}
    with pytest.raises(ValueError, match=message):
        prune.forecast(PruneConfig(**config), facts)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metrics": ["patch_residual"], "sizes": [4]}, r"sizes is \[4\], but the model has 4 blocks; accepted: below"),
        ({"protect_first": 3, "protect_last": 1}, "protect all 4 blocks"),
    ],
)
def test_scans_that_the_model_rules_out_are_refused_before_anything_runs(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan.forecast(ScanConfig(**config), {"model": ({"num_blocks": 4},), "data": ({},)})


def test_prepending_without_a_first_token_is_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    folder = tmp_path / "without"
    load_model(model.path, "float32").save_pretrained(folder)
    tokenizer = load_tokenizer(model.path)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="prepend_bos is true, but the tokenizer has no beginning-of-sequence token"):
        calibration_samples(folder, questions, 4, 64, prepend_bos=True)
