"""Which engine serves which form: the first that is installed, by a table, else a line that says what to install."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.stages.artifacts.serving.engines import ENGINES, FORMS, Served, check_writes_text, choose_engine
from attar.stages.artifacts.serving.server import EngineFailedError, free_port, responds, running
from tests.stages.artifacts.serving.stand_in_engine import write_engine

FORMS_OF_A_VERSION = ("gguf-q8_0", "model", "onnx", "onnx-int8")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and no Python package that serves."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("attar.stages.artifacts.serving.engines.find_spec", lambda name: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    return tmp_path


def program(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_the_first_engine_that_is_installed_serves_the_first_form_that_it_can(bare: Path) -> None:
    program(bare, "onnx-genai")
    assert [choose_engine(FORMS_OF_A_VERSION)[index] for index in (0,)] == ["onnx"]
    program(bare, "vllm")
    form, engine = choose_engine(FORMS_OF_A_VERSION)
    assert (form, engine.name) == ("model", "vllm")
    program(bare, "llama-server")
    form, engine = choose_engine(FORMS_OF_A_VERSION)
    assert (form, engine.name) == ("gguf-q8_0", "llama-server")
    form, engine = choose_engine(FORMS_OF_A_VERSION, "onnx-int8", "onnx-genai")
    assert (form, engine.name) == ("onnx-int8", "onnx-genai")


@pytest.mark.parametrize(
    ("form", "engine", "line"),
    [
        ("openvino", "", "form is 'openvino'; accepted, what the version has: gguf-q8_0, model, onnx, onnx-int8"),
        ("", "ollama", "engine is 'ollama'; accepted: llama-server, llama-cpp-python, vllm, transformers, onnx-genai"),
        ("model", "llama-server", "engine llama-server does not serve model; what serves what is gguf: llama-server"),
        (
            "model",
            "",
            "nothing here serves model; install vllm (vLLM's `vllm` on PATH, in an environment of its own) or",
        ),
        (
            "gguf",
            "",
            "nothing here serves gguf-q8_0; install llama-server (llama.cpp's llama-server on PATH) or llama-cpp",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(bare: Path, form: str, engine: str, line: str) -> None:
    with pytest.raises(ValueError) as error:
        choose_engine(FORMS_OF_A_VERSION, form, engine)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_a_form_that_no_engine_has_is_refused(bare: Path) -> None:
    with pytest.raises(ValueError, match="no engine serves openvino; what serves what is"):
        choose_engine(("openvino",))


def test_every_row_of_the_table_names_an_engine_with_a_whole_command(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    served = Served(folder=tmp_path, name="small", host="::1", port=8123, options=("--threads", "2"))
    for name in {name for names in FORMS.values() for name in names}:
        command = ENGINES[name].command(served)
        assert command[-2:] == ("--threads", "2") and "small" in command
        assert "8123" in command or "[::1]:8123" in command
    assert served.url == "http://[::1]:8123"


def test_a_model_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    for name, is_refused in (("LlamaForCausalLM", False), ("GPT2LMHeadModel", False), ("BertForMaskedLM", True)):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
        if is_refused:
            with pytest.raises(ValueError, match=f"{name}, which writes no text"):
                check_writes_text(tmp_path)
        else:
            check_writes_text(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--fail", "no such tensor"),
            "the engine ended with exit code 1: error: failed to load the model: no such tensor",
        ),
        (("--slow", "60"), "llama-server was not ready within 1 s"),
        (("--open", "yes"), "the engine listens on 0.0.0.0, not on 127.0.0.1 alone: it was ended"),
    ],
)
def test_an_engine_that_does_not_come_up_is_ended_and_its_last_line_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("PATH", str(write_engine(tmp_path / "bin").parent))
    served = Served(folder=tmp_path, name="small", host="127.0.0.1", port=free_port(), options=options)
    with (
        pytest.raises(EngineFailedError) as error,
        running(ENGINES["llama-server"], served, tmp_path / "log", seconds=1),
    ):
        raise AssertionError("it must not be handed out")
    assert reason in str(error.value)
    assert not responds(f"{served.url}/health")
