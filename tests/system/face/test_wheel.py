"""The wheel in a fresh environment: one name, complete metadata, the tiny recipe, the servers and a deployment from an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.system.face.conftest import ROOT, Environment, packages_of, run
from tests.system.operated import Api, free_ports

pytestmark = pytest.mark.slow
PACKAGES = ("attar", "compressors", "pipelines", "registry", "stages")
# shown by the README alone
UNSHIPPED = {".png"}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_an_install_has_one_name(fresh: Path) -> None:
    names = {path.name for path in packages_of(fresh).iterdir()} - {"libraries.pth", "__pycache__", "_virtualenv.py"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert names == {"attar", f"attar-{project['version']}.dist-info"}


def test_the_wheel_has_every_file_of_the_packages(wheel: Path, source: Path) -> None:
    made = set(contents(wheel))
    listed = [path for package in PACKAGES for path in (source / package).rglob("*") if not path.is_dir()]
    wanted = {
        path.relative_to(source).as_posix()
        for path in listed
        if path.suffix not in UNSHIPPED and not path.is_symlink() and "__pycache__" not in path.parts
    }
    wanted = {name if name.startswith("attar/") else f"attar/{name}" for name in wanted}
    assert wanted - made == set()
    assert {name for name in made - wanted if ".dist-info/" not in name} == set()


def test_an_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    run([*command, "--sdist", str(source)])
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    run([*command, "--wheel", str(unpacked)])
    [again] = tmp_path.glob("*.whl")
    assert contents(again) == contents(wheel)


def test_the_metadata_is_complete(wheel: Path) -> None:
    [text] = [content for name, content in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(text.decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (metadata["Name"], metadata["License-Expression"]) == ("attar", "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert metadata["Summary"] and metadata["Keywords"] and metadata["License-File"] == "LICENSE"
    classifiers = metadata.get_all("Classifier", [])
    for beginning in (
        "Development Status ::",
        "Intended Audience ::",
        "Operating System ::",
        "Topic ::",
        "Typing :: Typed",
    ):
        assert any(classifier.startswith(beginning) for classifier in classifiers)
    addresses = [line.partition(", ")[2] for line in metadata.get_all("Project-URL", [])]
    assert addresses and all(urlsplit(address).hostname == "arxiv.org" for address in addresses)


def test_tiny_the_servers_and_a_deployment_from_an_empty_folder(empty: tuple[Path, Environment]) -> None:
    folder = empty[0]
    first = json.loads(attar(empty, "run", "tiny", "--json"))
    assert {node["state"] for node in first["nodes"].values()} == {"Completed"}
    assert list(folder.iterdir()) == []
    prefect, mlflow, worker = free_ports(3)
    ports = ("--prefect-port", prefect, "--mlflow-port", mlflow, "--worker-port", worker)
    up = json.loads(attar(empty, "up", *ports, "--json"))
    try:
        api = Api(up["api"])
        flow_run = api.trigger("recipe", {"name": "tiny", "overrides": ["left.config.max_rows=5"]})
        assert api.wait(flow_run, "COMPLETED")["state"]["type"] == "COMPLETED"
        runs = json.loads(attar(empty, "list", "runs", "--json"))
        assert [run["state"] for run in runs] == ["done", "done"]
        difference = json.loads(attar(empty, "diff", first["id"], "latest", "--json"))
        assert [(row["field"], row["second"]) for row in difference["fields"]] == [("config.max_rows", 5)]
    finally:
        attar(empty, "down")


def test_a_project_with_a_package_of_the_same_name(empty: tuple[Path, Environment], fresh: Path) -> None:
    """`stages`, `pipelines` and `registry` of a user's own stay theirs; a run, its fork server and its nodes import ours."""
    folder, environment = empty
    for name in ("stages", "pipelines", "registry", "compressors"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'the project'\n")
    script = folder / "script.py"
    script.write_text(
        "import stages, pipelines, registry, compressors\n"
        "import attar\n"
        "assert {module.OWNER for module in (stages, pipelines, registry, compressors)} == {'the project'}\n"
        "run = attar.run('tiny', until='pruned', is_quiet=True).raise_for_failure()\n"
        "print(attar.stages.prune(model=run['pruned'], blocks=[0]).facts['num_blocks'])\n"
    )
    done = run([str(fresh / "bin" / "python"), str(script)], cwd=folder, env=environment)
    assert done.stdout.strip() == "2"


def attar(empty: tuple[Path, Environment], *words: str) -> str:
    folder, environment = empty
    done = subprocess.run(["attar", *words], capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
