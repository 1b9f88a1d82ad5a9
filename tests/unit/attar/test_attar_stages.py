"""Stages as functions of folders: their arguments, what they take as input, what they leave, what they refuse."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

import attar
from attar.call_stub import STUB, stub_text
from attar.registry.artifacts.delivery import DELIVERY
from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_can_be_called_with_its_inputs_and_fields(name: str) -> None:
    stage, call = STAGES[name], getattr(attar.stages, name)
    parameters = inspect.signature(call).parameters
    assert set(parameters) == {*stage.slots, *stage.config_type.model_fields, "config", "output", "store"}
    required = {slot.name for slot in stage.slots.values() if slot.is_required}
    required |= {field for field, about in stage.config_type.model_fields.items() if about.is_required()}
    assert {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty} == required
    assert callable(call) and name in dir(attar.stages)


def test_a_call_is_the_same_before_and_after_its_module_is_imported() -> None:
    module = importlib.import_module("attar.stages.prune")
    assert attar.stages.prune is module and inspect.ismodule(module) and callable(module)
    assert attar.stages.prune.stage.prune is STAGES["prune"]


def test_the_shipped_types_are_what_the_stages_are() -> None:
    """`make generated` writes the file anew."""
    assert STUB.read_text() == stub_text()


def test_a_stage_takes_an_artifact_its_folder_and_its_copy_as_the_same(
    model: ModelArtifact, store: Store, tmp_path: Path
) -> None:
    first = attar.stages.prune(model=model, blocks=[1], output=tmp_path / "smaller", store=store)
    assert first.facts["num_blocks"] == 3
    assert json.loads((tmp_path / "smaller" / "config.json").read_text())["num_hidden_layers"] == 3
    again = [
        attar.stages.prune(model=given, blocks=[0], store=store) for given in (first, first.path, tmp_path / "smaller")
    ]
    assert len({artifact.key for artifact in again}) == 1
    assert again[0].facts["num_blocks"] == 2


def test_a_copy_is_taken_into_another_store(model: ModelArtifact, store: Store, tmp_path: Path) -> None:
    first = attar.stages.prune(model=model, blocks=[1], output=tmp_path / "smaller", store=store)
    other = Store(tmp_path / "other")
    second = attar.stages.prune(model=tmp_path / "smaller", blocks=[1], store=other)
    assert second.path.is_relative_to(other.root)
    copied = other.load("prune", first.key)
    other.verify(copied)
    assert copied.fingerprint == first.fingerprint


def test_a_plain_folder_and_a_file_are_brought_in(model: ModelArtifact, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    attar.stages.prune(model=model, blocks=[3], output=folder, store=store)
    (folder / DELIVERY).unlink()  # from here on it is anybody's folder
    rows = tmp_path / "sums.jsonl"
    rows.write_text("".join(f'{{"question": "{n} plus 1?", "answer": "{n + 1}"}}\n' for n in range(9)))
    scan = attar.stages.scan(model=folder, data=rows, calibration={"num_samples": 4, "max_tokens": 32}, store=store)
    assert scan.facts["num_blocks"] == 3
    assert attar.stages.prune(model=folder, scan=scan, num_blocks=1, store=store).facts["num_blocks"] == 2


def test_a_changed_copy_is_refused(model: ModelArtifact, store: Store, tmp_path: Path) -> None:
    attar.stages.prune(model=model, blocks=[1], output=tmp_path / "smaller", store=store)
    (tmp_path / "smaller" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config.json has changed since it was written; .* delete attar.json there"):
        attar.stages.prune(model=tmp_path / "smaller", blocks=[0], store=store)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nowhere", "blocks": [1]}, "prune: model = 'nowhere': no such file or folder; accepted: model or "),
        ({"model": 3, "blocks": [1]}, "prune: model = 3: accepted: model or "),
        ({"blocks": [1]}, "prune: model is missing"),
        ({"bloks": [1]}, "prune: no argument 'bloks'. Did you mean 'blocks'?"),
        ({"blocks": [9]}, "prune: block 9 does not exist: the model has 4 blocks"),
        ({"num_blocks": -1}, "prune: num_blocks is -1; accepted: at least 0"),
        ({"num_blocks": 1}, "prune: num_blocks needs the input `scan`; without one, list `blocks`"),
        ({"blocks": [1], "output": "taken"}, "is not empty; give a folder that is, or that does not exist"),
        ({"blocks": [1], "scan": "rows.jsonl"}, "prune: scan = 'rows.jsonl': no such file or folder; accepted: scan as an artifact"),
        ({"model": [], "blocks": [1]}, "prune: model takes one model or "),
        ({"blocks": [1], "config": {"protect_first": -1}}, "prune: protect_first is -1; accepted: at least 0"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_told_in_one_line(
    arguments: dict, message: str, model: ModelArtifact, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    given = {"model": model} if "model is missing" not in message else {}
    with pytest.raises(attar.AttarError) as refused:
        attar.stages.prune(**{**given, "store": store, **arguments})
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_store_is_that_of_the_home_or_any_folder(store: Store, tmp_path: Path) -> None:
    assert attar.Store() == store  # ATTAR_HOME leads there
    assert attar.Store(str(tmp_path)) == attar.Store(tmp_path)


def test_an_input_of_another_kind_is_refused(model: ModelArtifact, store: Store) -> None:
    with pytest.raises(ValueError, match="prune: scan takes scan, not model"):
        attar.stages.prune(model=model, scan=model, num_blocks=1, store=store)


def test_a_name_that_is_no_stage_is_told() -> None:
    with pytest.raises(AttributeError, match="no stage 'prunn'. Did you mean 'prune'?"):
        attar.stages.prunn  # noqa: B018
    with pytest.raises(TypeError, match="no stage 'contract'"):
        attar.stages.contract()
