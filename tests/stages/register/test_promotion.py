"""Who is champion: verdicts, promotion, rollback and comparison on a real MLflow registry with weightless models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.store import Store
from attar.registry.release.model_registry import register_model
from attar.registry.release.promotion import judge, link_version, make_champion, roll_back, turn_down
from attar.registry.release.versions import Version, compare_versions, find_version, read_version
from attar.registry.tracking.mlflow_home import open_client
from attar.stages.ingest.newest_source import newest_source
from tests.databases import copy_database


def version(
    number: str, accuracy: float | None = None, perplexity: float | None = None, status: str = "passed"
) -> Version:
    numbers = {"model/accuracy": accuracy, "model/perplexity": perplexity}
    metrics = {name: value for name, value in numbers.items() if value is not None}
    return Version("m", number, (), {"validation_status": status}, metrics)


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        (version("2", 0.80), version("1", 0.80), ""),
        (version("2", 0.792), version("1", 0.80), ""),
        (version("2", 0.79), version("1", 0.80), "accuracy 0.79, the champion (version 1) has 0.8"),
        (version("2", 0.9, status="failed"), version("1", 0.80), "m version 2 has not passed the gate"),
        (version("2", 0.9, status="failed"), None, "m version 2 has not passed the gate"),
        (version("2", 0.1), None, ""),
        (version("2", None, 30.0), version("1", None, 29.9), ""),
        (version("2", None, 31.0), version("1", None, 29.9), "perplexity 31"),
        (version("2", None, 28.0), version("1", None, 29.9), ""),
        (version("2", None, float("nan")), version("1", None, 29.9), "perplexity nan"),
        (version("2", None, 30.0), version("1", 0.5), "neither accuracy nor perplexity was measured for both"),
        (version("1", 0.5), version("1", 0.5), ""),
    ],
)
def test_a_worse_model_is_worse_in_whichever_quality_both_measured(
    candidate: Version, champion: Version | None, reason: str
) -> None:
    verdict = judge(candidate, champion, 0.01)
    assert verdict.is_worse is bool(reason)
    assert reason in "; ".join(verdict.reasons)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Path]:
    """One registry for the file. Each test has a model of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("promotion") / "home"
        copy_database(mlflow_database, folder / "mlflow.db")
        patch.setenv("ATTAR_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("ATTAR_MLFLOW_RUN_ID", raising=False)
        yield folder


@pytest.fixture
def model(home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A registered model of three versions, the first one champion; each weighs one file."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {}")

    name = request.node.name
    for index in range(3):
        made = register_model(
            name, f"key{index}", write, metrics={}, params={}, scratch=tmp_path, is_champion=index == 0,
            tags={"validation_status": "passed", "attar.model_key": f"{index}" * 64},
        )  # fmt: skip
        assert made.version == str(index + 1)
    return name


def aliases(name: str) -> dict[str, str]:
    by_alias = open_client(attar_home()).get_registered_model(name).aliases
    return {alias: str(number) for alias, number in by_alias.items()}


def test_promotion_and_rollback_are_inverse(model: str) -> None:
    first, second, third = "1", "2", "3"
    assert aliases(model) == {"candidate": third, "champion": first}
    former = make_champion(model, second, "better")
    assert former is not None and former.number == first
    assert aliases(model) == {"candidate": third, "champion": second, "previous": first}
    before = aliases(model)
    make_champion(model, second, "again")
    assert aliases(model) == before, "promoting the champion changes nothing"
    make_champion(model, third, "better still")
    assert aliases(model) == {"candidate": third, "champion": third, "previous": second}
    fallen, restored = roll_back(model, "slow")
    assert (fallen.number, restored.number) == (third, second)
    assert aliases(model) == {"candidate": third, "champion": second, "previous": first}
    roll_back(model, "slow too")
    assert aliases(model) == {"candidate": third, "champion": first}, "going back twice goes back two, never forward"
    with pytest.raises(ValueError, match=f"{model} has no previous version: version {first} stays champion"):
        roll_back(model, "once more")
    assert "rolled back: slow" in read_version(f"{model}/{third}").tags["attar.decision"]


def test_turning_down_leaves_the_aliases_and_a_note(model: str) -> None:
    before = aliases(model)
    turn_down(model, "2", "smells")
    assert aliases(model) == before
    assert read_version(f"{model}/2").tags["attar.decision"].endswith("rejected: smells")


def test_links_are_added_and_never_overwritten(model: str, home: Path) -> None:
    link_version(model, "2", {"attar.run": "first", "attar.recipe": ""}, Store(home))
    link_version(model, "2", {"attar.run": "second", "attar.recipe": "demo"}, Store(home))
    tags = read_version(f"{model}/2").tags
    assert (tags["attar.run"], tags["attar.recipe"]) == ("first", "demo")


def test_versions_are_named_three_ways_and_compared(model: str) -> None:
    assert read_version(model).number == read_version(f"{model}@champion").number == read_version(f"{model}/1").number
    assert find_version(model, "nobody") is None
    with pytest.raises(ValueError, match="nothing@champion|nothing"):
        read_version("nothing")
    rows = {row["what"]: row for row in compare_versions(read_version(model), read_version(f"{model}@candidate"))}
    assert rows["version"] == {
        "what": "version",
        "first": "1 @champion",
        "second": "3 @candidate",
        "ratio": None,
    }
    assert rows["attar.model_key"]["first"] != rows["attar.model_key"]["second"]
    assert "validation_status" not in rows, "what is the same is not shown"


def test_an_alias_counts_as_the_version_it_names_now(model: str) -> None:
    assert newest_source("ingest_model", f"models:/{model}@candidate") == f"models:/{model}/3"
    make_champion(model, "2", "news")
    assert newest_source("ingest_model", f"models:/{model}@champion") == f"models:/{model}/2"
    with pytest.raises(ValueError, match="nobody"):
        newest_source("ingest_model", f"models:/{model}@nobody")


def test_the_command_line_compares_and_names_what_it_does_not_find(model: str) -> None:
    done = CliRunner().invoke(app, ["compare", f"{model}/1", f"{model}@candidate", "--json"])
    assert done.exit_code == 0
    assert {"what": "version", "first": "1 @champion", "second": "3 @candidate", "ratio": None} in json.loads(
        done.stdout
    )
    assert "attar.model_key" in CliRunner().invoke(app, ["compare", f"{model}/1", f"{model}/2"]).stdout
    missing = CliRunner().invoke(app, ["compare", model, f"{model}/9"])
    assert missing.exit_code == 2 and f"attar: {model}/9" in missing.stderr
