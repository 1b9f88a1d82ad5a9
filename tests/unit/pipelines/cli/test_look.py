"""What the command line shows: listings of a full and of an empty home, tables that fit, every field described, tracebacks when asked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from attar.pipelines.cli.completion import LISTED, complete_listing, complete_name, complete_recipe, complete_run
from attar.pipelines.cli.describe import describe
from attar.pipelines.cli.guarded import guarded, refusals
from attar.pipelines.cli.listing import CATALOGUES, LISTINGS
from attar.pipelines.cli.main import app
from attar.pipelines.cli.run_listing import list_logs, run_state
from attar.pipelines.cli.tables import print_table
from attar.pipelines.recipe.mistakes import RecipeError
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder
from attar.stages.catalogue import STAGES


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.fixture
def record(home: Path) -> RunRecord:
    nodes = {
        "a": NodeRecord("ingest_model", {}, {}, state="Completed", key="ab" * 32, seconds=1.25),
        "b": NodeRecord("prune", {}, {"model": ["a"]}, state="Failed", cause="no such block"),
        "c": NodeRecord("export", {}, {"model": ["b"]}, state="Skipped", cause="a node before it failed"),
    }
    record = RunRecord(new_run_folder(home, "sums"), "sums", "0", nodes, seconds=3.5)
    record.close()
    (record.folder / "logs").mkdir()
    (record.folder / "logs" / "b.log").write_text("no such block\n")
    return record


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["list", "artifacts"], 0, "nothing is stored under"),
        (["list", "runs"], 0, "nothing has been run under"),
        (["list", "logs"], 0, "has written a log under"),
        (["status"], 2, "nothing has been run under"),
        (["report", "latest"], 2, "nothing has been run under"),
        (["show", "ab12"], 2, "nothing is stored under"),
        (["list", "ruins"], 2, "Did you mean 'runs'?"),
        (["describe", "prun"], 2, "is no stage and no method. Did you mean 'prune'?"),
    ],
)
def test_an_empty_home_is_told_with_what_to_do(words: list[str], exit_code: int, message: str, home: Path) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code and message in done.output.replace("\n", " "), done.output
    assert "Traceback" not in done.output and not home.exists()


def test_runs_and_logs_are_listed_and_a_run_tells_its_nodes(record: RunRecord) -> None:
    listed = CliRunner().invoke(app, ["list", "runs", "--json"])
    assert (
        f'"run": "{record.id}"' in listed.stdout
        and '"state": "failed"' in listed.stdout
        and '"nodes": "1/3"' in listed.stdout
    )
    status = CliRunner().invoke(app, ["status", record.id[:16]])
    assert status.exit_code == 0 and all(
        word in status.stdout for word in ("failed", "prune", "Skipped", "no such block", "abababababab")
    )
    assert [row["log"] for row in list_logs()] == [f"runs/{record.id}/logs/b.log"]


def test_the_state_of_a_run_follows_its_nodes_and_its_process(record: RunRecord) -> None:
    assert run_state(record) == "failed"
    record.is_open = True
    assert run_state(record) == "running", "this process, which made it, is there"
    record.pid_created -= 1000
    assert run_state(record) == "killed", "another process has its number now"
    record.is_open = False
    for node in record.nodes.values():
        node.state = "Cached"
    assert run_state(record) == "done"


def shown(rows: list[dict], width: int) -> list[str]:
    stream = io.StringIO()
    print_table(rows, "a mark: its meaning", Console(file=stream, width=width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("what", LISTINGS)
def test_every_listing_fits_eighty_columns_without_a_word_cut(what: str, record: RunRecord) -> None:
    lines = shown(LISTINGS[what](), 80)
    assert max(map(len, lines), default=0) <= 80
    if what in ("stages", "methods"):
        text = "".join("".join(lines).split())
        first = LISTINGS[what]()[0]["what"].split()[0]
        assert first in text


def test_a_table_that_cannot_fit_is_printed_row_by_row() -> None:
    rows = [
        {f"column{index}": "w" * 20 for index in range(8)},
        {f"column{index}": Text("x", style="red") for index in range(8)},
    ]
    lines = shown(rows, 80)
    assert sum(line.startswith("column3") for line in lines) == 2 and max(map(len, lines)) <= 80
    assert max(map(len, shown(rows, 200))) > 80, "where there is room it is a table"


def test_half_an_emoji_in_a_table_ends_nothing() -> None:
    assert any("?" in line for line in shown([{"name": "\ud83d", "what": "x"}], 80))


@pytest.mark.parametrize("name", STAGES)
def test_every_field_of_a_stage_is_described(name: str) -> None:
    [entry] = [entry for entry in describe(name) if entry["kind"] == "stage"]
    rows = {row["field"]: row for row in entry["fields"]}
    assert STAGES[name].config_type.model_fields.keys() <= rows.keys()
    assert all(row["takes"] and row["default"] and row["what"] for row in rows.values())


def test_nested_fields_ranges_and_defaults_are_described() -> None:
    [entry] = describe("quantize")
    rows = {row["field"]: row for row in entry["fields"]}
    assert (
        rows["limits.max_kl_nats (text)"]["takes"] == "number, above 0.0"
        and rows["limits.max_kl_nats (text)"]["default"] == "required"
    )
    assert rows["limits.min_agreement (text)"]["default"] == "0.0"
    rows = {row["field"]: row for row in describe("finetune")[0]["fields"]}
    assert "objectives..NAME.divergence" not in rows and any(field.endswith(".divergence") for field in rows)


def test_every_method_of_every_catalogue_is_described() -> None:
    for catalogue, table in CATALOGUES.items():
        for name in table:
            assert any(entry["kind"] == catalogue and entry["text"] for entry in describe(name)), name
    assert describe("methods/gkd")[0]["kind"] == describe("gkd")[0]["kind"] == "recipe"


def test_completion_offers_what_there_is(record: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tinier.yaml").write_text("")
    assert complete_recipe("ti") == ["tiny", "tinier.yaml"]
    assert complete_listing("r") == ["recipes", "runs"] and set(LISTED) == LISTINGS.keys()
    assert complete_run("") == ["latest", record.id] and complete_name("slerp") == ["slerp"]


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.stdout.startswith("attar ")


def test_every_command_takes_debug() -> None:
    import typer.main

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert "--debug" in {option for parameter in command.params for option in parameter.opts}, name


@pytest.mark.parametrize(
    ("error", "exit_code", "lines"),
    [
        (RecipeError("one", "two"), 2, ["attar: one", "attar: two"]),
        (ValueError("a\n  b"), 2, ["attar: a b"]),
        (
            PermissionError(13, "Permission denied", "x"),
            1,
            ["attar: PermissionError: [Errno 13] Permission denied: 'x'"],
        ),
        (KeyError("x"), 1, ["attar: KeyError: 'x' (a fault of Attar's own: --debug shows where)"]),
    ],
)
def test_what_a_command_raises_is_lines_and_a_traceback_only_when_asked(
    error: Exception, exit_code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    def command(name: str = "") -> None:
        raise error

    with pytest.raises(typer.Exit) as left:
        guarded(command)("x")
    assert (left.value.exit_code, capsys.readouterr().err.splitlines()) == (exit_code, lines)
    with pytest.raises(type(error)):
        guarded(command)("x", debug=True)
    with pytest.raises(typer.Exit), refusals(debug=False):
        raise typer.Exit(3)


def test_a_table_of_no_fields_is_nothing() -> None:
    assert shown([], 80) == []
