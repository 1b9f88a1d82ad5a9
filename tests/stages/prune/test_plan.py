"""A solved plan through the stages: scan measures, prune solves, cuts, repairs and proves; what cannot be met is told before or in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from attar.pipelines.report.plans import _figures, _picture, _rows
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, ScanArtifact
from attar.registry.artifacts.store import Store
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.scan.candidates import CandidatesConfig, read_problem
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan

AXES = ["depth", "seams", "channels", "groups", "hidden", "rotated"]
SMALL = {"calibration": {"num_samples": 4, "max_tokens": 32}}
REFIT = {"kind": "refit", "num_samples": 4, "max_tokens": 32}


@pytest.fixture(scope="module")
def measured(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> ScanArtifact:
    """A scan with the candidates of every axis."""
    config = ScanConfig(candidates={"axes": AXES}, measure_latency=True, **SMALL)
    return scan.execute(config, ScanInputs(model=model, data=questions), shared_store).artifact


def planned(
    plan: dict[str, Any], model: ModelArtifact, scanned: ScanArtifact, store: Store, *, data: tuple = (), **config: Any
) -> tuple[ModelArtifact, dict[str, Any]]:
    inputs = PruneInputs(model=model, scan=scanned, data=data)
    artifact = prune.execute(PruneConfig(plan=plan, **config), inputs, store).artifact
    return artifact, json.loads((artifact.path / "records" / "plan.json").read_text())


def test_the_table_gives_back_what_was_measured(measured: ScanArtifact) -> None:
    problem, units = read_problem(measured.path)
    assert {item.axis for item in problem.items} == {*AXES, "seam_ends"}
    assert set(problem.totals) == {"parameters", "bytes", "kv_bytes", "flops", "ms"}
    assert len(units.of_axis["channels"]) == problem.num_blocks == 4
    assert (
        units.stream is not None and units.stream.rotation is not None and set(units.of_axis) == {"channels", "groups"}
    )
    assert measured.facts["axes"] == tuple(AXES)


@pytest.mark.parametrize(
    "budget", [{"parameters": 0.8}, {"kv_bytes": 0.5}, {"flops": 0.8, "parameters": 0.9}, {"ms": 0.8}]
)
def test_a_plan_meets_its_budget(
    budget: dict[str, float], model: ModelArtifact, measured: ScanArtifact, store: Store
) -> None:
    artifact, record = planned({"budget": budget}, model, measured, store)
    for quantity, share in budget.items():
        assert record["left"][quantity] <= share * record["totals"][quantity] * (1 + 1e-9)
        front = record["fronts"][quantity]
        assert [point["left"] for point in front] == sorted((point["left"] for point in front), reverse=True)
    assert record["left"]["parameters"] == pytest.approx(artifact.facts["num_parameters"], rel=1e-12)
    assert record["predicted_nats"] == pytest.approx(sum(item["loss_nats"] for item in record["items"]))
    assert record["measured_nats"] is None
    assert artifact.facts["predicted_nats"] == record["predicted_nats"]
    for quantity in budget:  # the report must take every plan
        assert "<svg" in _picture(record, quantity) and _rows(record, quantity)
    assert {
        "figure": "parameters left",
        "value": f"{record['left']['parameters'] / record['totals']['parameters']:.1%}",
    } in _figures(record)


def test_a_repaired_plan_is_measured_beside_what_was_predicted(
    model: ModelArtifact, measured: ScanArtifact, questions: DatasetArtifact, store: Store
) -> None:
    artifact, record = planned({"budget": {"parameters": 0.75}}, model, measured, store, data=(questions,), patch=REFIT)
    assert record["measured_nats"]["low"] <= record["measured_nats"]["value"] <= record["measured_nats"]["high"]
    assert artifact.facts["measured_nats"] == record["measured_nats"]["value"]
    assert artifact.facts["num_parameters"] <= 0.75 * model.facts["num_parameters"]


def test_trials_price_an_axis_by_what_its_repair_leaves(
    model: ModelArtifact, measured: ScanArtifact, questions: DatasetArtifact, store: Store
) -> None:
    plan = {"budget": {"parameters": 0.75}, "axes": ["depth", "channels"], "trials": True}
    artifact, record = planned(plan, model, measured, store, data=(questions,), patch=REFIT)
    metrics = [json.loads(line) for line in (artifact.path / "records" / "metrics.jsonl").read_text().splitlines()]
    shares = {entry["name"]: entry["value"] for entry in metrics if entry["name"].endswith("_repair_share")}
    assert set(shares) == {"depth_repair_share", "channels_repair_share"} and min(shares.values()) > 0
    losses = {(item.axis, item.where): item.loss_nats for item in read_problem(measured.path)[0].items}
    for item in record["items"]:
        bare = losses[item["axis"], item["where"]]
        assert item["loss_nats"] == pytest.approx(bare * shares[f"{item['axis']}_repair_share"])


def test_axes_may_be_left_out(model: ModelArtifact, measured: ScanArtifact, store: Store) -> None:
    _, record = planned({"budget": {"parameters": 0.8}, "axes": ["channels"]}, model, measured, store)
    assert {item["axis"] for item in record["items"]} == {"channels"}
    assert all("seams" not in point["plan"] for point in record["fronts"]["parameters"])


@pytest.mark.parametrize("axis", ["hidden", "rotated"])
@pytest.mark.parametrize("is_repaired", [False, True])
def test_a_narrower_stream_alone(
    axis: str, is_repaired: bool, model: ModelArtifact, measured: ScanArtifact, questions: DatasetArtifact, store: Store
) -> None:
    more = {"data": (questions,), "patch": REFIT} if is_repaired else {}
    artifact, record = planned({"budget": {"flops": 0.9}, "axes": [axis]}, model, measured, store, **more)
    assert artifact.facts["hidden_size"] < 64 and artifact.facts["num_blocks"] == 4
    assert artifact.facts["attention_width"] == 64  # heads stay as they are
    assert [item["axis"] for item in record["items"]] == [axis]
    assert (record["measured_nats"] is not None) == is_repaired


def test_seams_alone_give_whole_blocks(model: ModelArtifact, measured: ScanArtifact, store: Store) -> None:
    artifact, record = planned({"budget": {"parameters": 0.8}, "axes": ["seams"]}, model, measured, store)
    assert artifact.facts["num_blocks"] < 4
    assert {item["axis"] for item in record["items"]} == {"seams", "seam_ends"}


def test_a_budget_that_nothing_meets_names_the_nearest(
    model: ModelArtifact, measured: ScanArtifact, store: Store
) -> None:
    with pytest.raises(ValueError, match=r"the nearest that can be met: parameters \S+ at the least"):
        planned({"budget": {"parameters": 0.01}}, model, measured, store)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"plan": {"budget": {}}}, "budget is empty"),
        ({"plan": {"budget": {"parameters": 1.5}}}, "budget.parameters is 1.5; accepted: above 0 and below 1"),
        ({"plan": {"budget": {"watts": 0.5}}}, "watts"),
        ({"plan": {"budget": {"flops": 0.5}}, "num_blocks": 1}, "num_blocks and plan contradict: both given"),
        ({"plan": {"budget": {"flops": 0.5}, "trials": True}}, "accepted with patch {kind: refit}"),
        ({"plan": {"budget": {"flops": 0.5}}, "patch": {"kind": "linear"}}, "accepted with plan: none, refit"),
    ],
)
def test_bad_plans_are_refused_while_the_recipe_loads(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruneConfig(**config)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("attention", "an attention part alone cannot go"),
        ("linear_attention", "Neural Block Linearization"),
        ("block_channels", "one intermediate_size"),
        ("dept", "unknown axis 'dept'"),
    ],
)
def test_axes_that_cannot_be_said_are_refused_with_the_reason(axis: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CandidatesConfig(axes=[axis])


@pytest.mark.parametrize(
    ("plan", "scanned", "message"),
    [
        ({"budget": {"flops": 0.5}}, {"axes": ()}, "the scan measured none"),
        (
            {"budget": {"flops": 0.5}, "axes": ["groups"]},
            {"axes": ("depth",)},
            "which the scan did not measure; it has depth",
        ),
        (
            {"budget": {"ms": 0.5}},
            {"axes": ("depth",), "has_latency": False},
            "needs a scan with measure_latency: true",
        ),
    ],
)
def test_a_plan_that_its_scan_rules_out_is_refused_before_anything_runs(
    plan: dict[str, Any], scanned: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prune.forecast(PruneConfig(plan=plan), {"model": ({"num_parameters": 100},), "scan": (scanned,)})


def test_the_forecast_prices_a_plan_by_its_budget() -> None:
    facts = {"num_parameters": 1000, "hidden_size": 8}
    forecast = prune.forecast(
        PruneConfig(plan={"budget": {"parameters": 0.75}}), {"model": (facts,), "scan": ({"axes": ("depth",)},)}
    )
    assert forecast.facts["num_parameters"] == 750 and forecast.disk_bytes > 0
    assert forecast.facts["hidden_size"] == 8
    narrower = prune.forecast(
        PruneConfig(plan={"budget": {"parameters": 0.75}}), {"model": (facts,), "scan": ({"axes": ("hidden",)},)}
    )
    assert "hidden_size" not in narrower.facts
