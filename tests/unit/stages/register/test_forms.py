"""The forms of a version: a folder each by kind and weights, graphs first, no two in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts.handles import (
    CTranslate2Artifact,
    GgufArtifact,
    ModelArtifact,
    OnnxArtifact,
    OpenVinoArtifact,
)
from attar.stages.register.forms import forms_by_folder

FLOAT = OnnxArtifact.at(Path("a"), quantization="none")
INT8 = OnnxArtifact.at(Path("b"), quantization="int8 weights")
HALF = GgufArtifact.at(Path("c"), quantization="f16")
FOUR = GgufArtifact.at(Path("d"), quantization="q4_0")
PACKED = ModelArtifact.at(Path("e"), quantization="W4A16")
INSIDE = OpenVinoArtifact.at(Path("f"), quantization="int8")
CONVERTED = CTranslate2Artifact.at(Path("g"), quantization="float32")


def test_each_form_has_a_folder_by_its_kind_and_weights() -> None:
    forms = forms_by_folder([INT8, FLOAT], [FOUR, PACKED, HALF])
    assert list(forms) == ["onnx", "onnx-int8", "gguf-q4_0", "model-w4a16", "gguf-f16"]
    assert forms["gguf-q4_0"] is FOUR and forms["onnx"] is FLOAT


def test_forms_of_one_runtime_are_named_after_it() -> None:
    assert list(forms_by_folder([], [INSIDE, CONVERTED])) == ["openvino-int8", "ctranslate2-float32"]


def test_a_graphs_folder_says_what_is_not_float32() -> None:
    half = OnnxArtifact.at(Path("h"), quantization="none", precision="float16")
    coded = OnnxArtifact.at(Path("i"), quantization="int4 weights", cache="int8")
    assert list(forms_by_folder([half, coded, FLOAT], [])) == ["onnx", "onnx-float16", "onnx-int4-int8-cache"]


def test_a_graph_may_be_given_as_any_form() -> None:
    assert list(forms_by_folder([], [INT8])) == ["onnx-int8"]


def test_two_forms_for_one_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="^forms: two forms of quantization q4_0; a version takes one of each$"):
        forms_by_folder([], [FOUR, FOUR])
    with pytest.raises(ValueError, match="^onnx: two graphs of quantization none; a version takes one of each$"):
        forms_by_folder([FLOAT, FLOAT], [])
