"""`attar doctor` on planted faults: each is found and told with its cure."""

from __future__ import annotations

import os
import sqlite3
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.operate import doctor
from attar.pipelines.operate.service_state import (
    ProcessMark,
    SiteState,
)
from tests.unit.pipelines.operate.served import free_port, site_of


def findings(home: Path) -> dict[str, doctor.Finding]:
    return {finding.check: finding for finding in doctor.examine(home)}


def test_doctor_finds_nothing_bad_in_a_sound_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what this tree asks for: an editable installation remembers what an older one did
    wanted = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]["dependencies"]
    monkeypatch.setattr("attar.pipelines.operate.doctor.metadata.requires", lambda package: wanted)
    # a sound machine as well: the one the tests run on may have a full disk, or a GPU that this torch cannot use
    monkeypatch.setattr("attar.pipelines.operate.doctor.free_bytes", lambda folder: 10**12)
    monkeypatch.setattr("attar.pipelines.operate.doctor._gpu_names", list)
    home.chmod(0o755)
    checks = findings(home)
    assert {name: check.observed for name, check in checks.items() if check.verdict == "bad"} == {}
    assert {"python", "packages", "permissions", "disk", "memory", "gpu", "services", "registry"} <= checks.keys()
    assert sorted(path.name for path in home.iterdir()) == [], "looking changes nothing"


@pytest.mark.parametrize(("library", "verdict"), [("libc.so.6", "note"), ("libtcmalloc_minimal.so.4.5.9", "ok")])
def test_doctor_looks_which_allocator_is_loaded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, verdict: str
) -> None:
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/{library}\n")
    monkeypatch.setattr("attar.pipelines.operate.doctor.LOADED_LIBRARIES", maps)
    monkeypatch.setattr("attar.pipelines.operate.doctor._gpu_names", list)
    check = findings(home)["allocator"]
    assert check.verdict == verdict and bool(check.mend) == (verdict == "note")


def test_doctor_prints_its_verdicts_and_no_markup(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(home))
    lines = CliRunner().invoke(app, ["doctor"]).stdout.splitlines()
    assert any(line.startswith("ok ") and "permissions" in line for line in lines) and "[green]" not in "".join(lines)


def test_doctor_finds_planted_faults_and_says_how_to_mend_each(
    home: Path, answers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mlflow.db").write_text("this is no database")
    home.chmod(0o777)
    SiteState(site_of(home), ProcessMark(os.getpid(), 1.0)).save()
    monkeypatch.setattr("attar.pipelines.operate.doctor.NO_DISK_BYTES", 1e18)
    monkeypatch.setattr(
        "attar.pipelines.operate.doctor.metadata.requires",
        lambda package: ["prefect>=99", "not-a-package-of-ours", "pytest>1"],
    )
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    checks = findings(home)
    for check, part in {
        "registry": "file is not a database",
        "permissions": "anyone may write",
        "services": "their supervisor was killed",
        "disk": "GB free",
        "package prefect": ".",
        "package not-a-package-of-ours": "not installed",
        "prefect": "no answer at http://127.0.0.1",
    }.items():
        assert checks[check].verdict == "bad" and part in checks[check].observed and checks[check].mend, check
    assert "package pytest" not in checks


def test_doctor_names_who_holds_a_port(home: Path, answers: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "attar.pipelines.operate.doctor.Site", lambda **given: site_of(home, mlflow_port=answers["port"])
    )
    check = findings(home)[f"port {answers['port']}"]
    assert check.verdict == "note" and f"process {os.getpid()}" in check.observed and "--mlflow-port" in check.mend


def test_doctor_tells_a_broken_registry_from_one_that_is_not_there_yet(home: Path) -> None:
    assert findings(home)["registry"].verdict == "ok"
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("create table t (x)")
    assert "is whole" in findings(home)["registry"].observed
