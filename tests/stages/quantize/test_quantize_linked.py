"""Quantize a graph whose weights have a second hard link: onnx-ir refuses to read such a file, onnxruntime opens it, and so do we."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from attar.registry.artifacts.handles import DatasetArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.onnx_folder import DATA, read_graph
from attar.stages.artifacts.onnx_session import GRAPH
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize


@pytest.fixture
def linked(graph: OnnxArtifact, tmp_path: Path) -> OnnxArtifact:
    copied = replace(graph, path=tmp_path / "store" / "export" / graph.key / graph.path.name)
    shutil.copytree(graph.path.parent, copied.path.parent)
    os.link(copied.path / DATA, tmp_path / "backup")
    return copied


def test_weights_of_a_linked_file_are_those_of_the_file(linked: OnnxArtifact, tmp_path: Path) -> None:
    weights = {name: value.const_value for name, value in read_graph(linked.path).graph.initializers.items()}
    arrays = {name: tensor.numpy().copy() for name, tensor in weights.items() if isinstance(tensor, ir.LazyTensor)}
    (tmp_path / "backup").unlink()  # now onnx-ir reads it: the same numbers, dtypes and shapes
    plain = ir.load(linked.path / GRAPH).graph.initializers
    assert len(arrays) > 10
    for name, array in arrays.items():
        expected = plain[name].const_value.numpy()  # type: ignore[union-attr]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"bits": 4, "method": "error_corrected"}, {"kind": "dynamic"}], ids=str
)
def test_a_linked_graph_is_quantized(
    store: Store, linked: OnnxArtifact, questions: DatasetArtifact, options: dict[str, object]
) -> None:
    config = QuantizeConfig(
        limits=Limits(max_kl_nats=100.0), measured={"max_tokens": 32, "num_rank_tokens": 24}, **options
    )  # type: ignore[arg-type]
    artifact = quantize.execute(config, QuantizeInputs(model=linked, data=questions), store).artifact
    assert float(artifact.facts["kl_nats"]) > 0
