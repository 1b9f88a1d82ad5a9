"""What a request may name: the workspace and the home's artifacts; never passwords, databases, locks or logs, however the path is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from attar.registry.artifacts import confinement
from attar.registry.artifacts.confinement import OPEN_IN_HOME, confine, confined
from attar.stages.artifacts.chat_server import KEYS_OF_REQUESTS, ServerConfig

# What Attar, Prefect, MLflow and Postgres keep in a home, a file of each kind.
PRIVATE = (
    "services/credentials.json", "services/basic_auth.db", "services/state.json", "services/up.lock", "mlflow.db", "mlflow.db-wal",
    "prefect/prefect.db", "prefect/profiles.toml", "locks/gpu-0.lock", "logs/prefect.log", "runs/a/run.json", "runs/a/logs/node.log",
    "work/key/work.json", "sweeps/x.log", "postgres/base/1", "something-new/x",
)  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with its home inside, as `attar up` makes it, seen from a request."""
    folder = tmp_path / "workspace"
    for name in (*PRIVATE, "store/scan/key/content/x.jsonl", "mlartifacts/1/model/config.json"):
        path = folder / ".attar" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (folder / "models").mkdir()
    (folder / "models" / "config.json").write_text("{}")
    (folder / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(folder)
    monkeypatch.setenv(confinement.VARIABLE, "")  # put back afterwards
    confine([folder], folder / ".attar")
    return folder


def test_the_workspace_and_the_artifacts_may_be_named(workspace: Path) -> None:
    for name in (
        "rows.jsonl",
        "models",
        "models/../rows.jsonl",
        "new.jsonl",
        *(f".attar/{name}" for name in OPEN_IN_HOME),
    ):
        assert confined(Path(name)) == Path(name)
    assert confined(workspace / ".attar/store/scan/key/content/x.jsonl")


@pytest.mark.parametrize("name", PRIVATE)
def test_what_the_servers_keep_may_not(workspace: Path, name: str) -> None:
    ways = [
        f".attar/{name}", f"./models/../.attar/{name}", f".attar/store/../{name}", str(workspace / ".attar" / name),
        str((workspace / ".attar" / name).parent), f"/proc/self/cwd/.attar/{name}",
    ]  # fmt: skip
    for way in ways:
        with pytest.raises(ValueError, match="one of the servers' own"):
            confined(Path(way))


def test_nor_by_a_link_of_either_kind(workspace: Path) -> None:
    secret = workspace / ".attar/services/credentials.json"
    (workspace / "soft.jsonl").symlink_to(secret)
    os.link(secret, workspace / "hard.jsonl")
    (workspace / "folder").symlink_to(secret.parent)
    (workspace / "home").symlink_to(workspace / ".attar")
    for name in ("soft.jsonl", "hard.jsonl", "folder", "folder/credentials.json", "home/services", "home/mlflow.db"):
        with pytest.raises(ValueError, match="one of the servers' own"):
            confined(Path(name))
    os.link(workspace / "rows.jsonl", workspace / "twice.jsonl")
    assert confined(Path("twice.jsonl")), "a second name alone is no fault: backups make them"


def test_nor_in_another_case_where_the_file_system_takes_it_for_the_same(workspace: Path, tmp_path: Path) -> None:
    """A second name of the folder itself, as a file system without case gives: a link stands in where this one has case."""
    other = workspace / ".ATTAR"
    if not other.exists():
        other.symlink_to(".attar")
    with pytest.raises(ValueError, match="one of the servers' own"):
        confined(Path(".ATTAR/services/credentials.json"))
    assert confinement._identity(other) == confinement._identity(workspace / ".attar"), "compared by inode, not by name"


@pytest.mark.parametrize("name", [".", "..", "/", "~", "/etc/passwd", "models/out", "models/far.json"])
def test_a_folder_is_refused_for_what_lies_in_it(workspace: Path, name: str) -> None:
    (workspace / "models" / "out").symlink_to("/etc")
    (workspace / "models" / "far.json").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="outside the workspace|holds .*where the servers keep their own"):
        confined(Path(name))
    with pytest.raises(ValueError, match="outside the workspace"):
        confined(Path("models"))


def test_a_folder_with_a_private_file_under_another_name_is_refused(workspace: Path) -> None:
    os.link(workspace / ".attar/mlflow.db", workspace / "models" / "tokenizer.json")
    with pytest.raises(ValueError, match="one of the servers' own"):
        confined(Path("models"))


def test_links_in_a_circle_and_users_that_are_not_there_are_one_line(workspace: Path) -> None:
    (workspace / "a").symlink_to("b")
    (workspace / "b").symlink_to("a")
    for name in ("a", "~nobody-of-that-name/x"):
        with pytest.raises(ValueError, match="leads nowhere|outside the workspace") as refusal:
            confined(Path(name))
        assert "\n" not in str(refusal.value)


def test_a_colon_in_a_folders_name_and_a_home_that_is_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a:b c"
    (odd / "services").mkdir(parents=True)
    (odd / "rows.jsonl").write_text("{}")
    monkeypatch.setenv(confinement.VARIABLE, "")
    confine([odd], tmp_path / "home")
    assert confined(odd / "rows.jsonl")
    confine([odd, tmp_path], odd)
    for name in ("rows.jsonl", "services"):
        with pytest.raises(ValueError, match="one of the servers' own"):
            confined(odd / name)


def test_what_the_operator_opens_inside_the_home_is_open(workspace: Path) -> None:
    extra = workspace / ".attar" / "something-new"
    confine([workspace, extra], workspace / ".attar", also_private=[workspace / "models"])
    assert confined(extra / "x")
    with pytest.raises(ValueError, match="one of the servers' own"):
        confined(workspace / "models" / "config.json")


def test_a_request_sends_no_key_that_the_operator_has_not_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(name: str) -> None:
        ServerConfig(base_url="http://elsewhere:8000/v1", model="m", api_key_env=name).check_key()

    monkeypatch.setenv(KEYS_OF_REQUESTS, "VLLM_KEY, OTHER_KEY")
    check("VLLM_KEY")
    check("")
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "HOME"):
        with pytest.raises(ValueError, match="no key that a request may use; accepted: names in ATTAR_API_KEYS"):
            check(name)
    monkeypatch.setenv(confinement.VARIABLE, "")
    check("HF_TOKEN")


def test_the_variable_is_readable_by_what_a_stage_starts(workspace: Path) -> None:
    values = json.loads(os.environ[confinement.VARIABLE])
    assert set(values) == {"folders", "private"} and str(workspace / ".attar" / "store") in values["folders"]
