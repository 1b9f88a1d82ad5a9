"""The OpenVINO form: opened by OpenVINO and OpenVINO GenAI, which say and write what torch does with the same rounded weights.

Wanted: `pip install 'attar[openvino]'` here, or in a folder that PYTHONPATH names; without it what needs no runtime is tested.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.export.parity import listen_to
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OpenVinoArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.openvino.matrices import round_matrices
from attar.stages.export.openvino.runner import open_folder
from attar.stages.export.proof.parity import prove_parity
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model

PROOF = {"num_prompts": 2, "num_new_tokens": 12}
installed = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("openvino", "openvino_tokenizers")),
    reason="openvino is not installed: pip install 'attar[openvino]'",
)


def run(store: Store, model: ModelArtifact, data: DatasetArtifact, **form: Any) -> OpenVinoArtifact:
    config = ExportConfig(format={"kind": "openvino", **form}, **PROOF)
    return export.execute(config, ExportInputs(model=model, data=data), store).artifact  # type: ignore[return-value]


@pytest.fixture(scope="module")
def made(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> Callable[[str], OpenVinoArtifact]:
    return lambda weights: run(shared_store, model, questions, weights=weights)


@installed
@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        pytest.param("f32", 32.0, marks=pytest.mark.slow),
        pytest.param("f16", 16.0, marks=pytest.mark.slow),
        ("int8", 8.0),
    ],
)
def test_the_runtime_computes_the_model_as_it_is_written(
    weights: str, bits: float, made: Callable[[str], OpenVinoArtifact], model: ModelArtifact
) -> None:
    artifact = made(weights)
    facts = artifact.facts
    assert facts.token_agreement == 1.0 and facts.max_logit_difference is not None
    assert facts.max_logit_difference < 1e-3, "the rounded weights are torch's too: what is left is the order of sums"
    assert facts.readers[0] == "openvino" and ("openvino-genai" in facts.readers) == (
        find_spec("openvino_genai") is not None
    )
    assert facts.quantization == weights and facts.architecture == "llama"
    assert facts.decode_seconds_per_token and facts.original_decode_seconds_per_token
    # a scale a row of 64 and norms in floats beside; norms of ones alone are left out
    assert facts.bits_per_weight is not None and bits - 0.5 < facts.bits_per_weight < bits + 2
    assert facts.weight_bytes == (artifact.path / "openvino_model.bin").stat().st_size
    names = {path.name for path in artifact.path.iterdir()}
    assert names >= {
        "openvino_model.xml",
        "openvino_tokenizer.xml",
        "openvino_detokenizer.xml",
        "config.json",
        "proof.json",
    }
    if weights == "f32":
        assert facts.kl_nats is None
    else:
        assert facts.kl_nats is not None and 0 < facts.kl_nats < 0.05
    ends = json.loads((artifact.path / "generation_config.json").read_text())["eos_token_id"]
    assert load_tokenizer(model.path).eos_token_id in ends


@installed
def test_its_tokenizer_cuts_as_the_models(made: Callable[[str], OpenVinoArtifact], model: ModelArtifact) -> None:
    import openvino  # type: ignore[import-not-found] - in an extra
    import openvino_tokenizers  # type: ignore[import-not-found] # noqa: F401 - its operators

    compiled = openvino.Core().compile_model(str(made("int8").path / "openvino_tokenizer.xml"), "CPU")
    for text in ("What is 17 plus 25?", "naïve ☕"):
        assert compiled([text])["input_ids"][0].tolist() == load_tokenizer(model.path)(text).input_ids


@installed
def test_rows_of_several_lengths_and_refills_write_what_torch_writes(
    made: Callable[[str], OpenVinoArtifact], model: ModelArtifact
) -> None:
    rounded = load_model(model.path, torch.float32)
    round_matrices(rounded, "int8")
    runner, reference = open_folder(made("int8").path), TorchRunner(rounded)
    prompts = [[5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26], [30, 31]]
    free = [decode(reference, [prompt], max_new_tokens=8, stop_ids=())[0].token_ids for prompt in prompts]
    stops = [free[0][3]]
    expected = decode(reference, prompts, max_new_tokens=8, stop_ids=stops)
    for batch_size in (1, 3):
        written = decode(runner, prompts, max_new_tokens=8, stop_ids=stops, batch_size=batch_size)
        assert [text.token_ids for text in written] == [text.token_ids for text in expected]


@installed
def test_another_model_is_refused(
    made: Callable[[str], OpenVinoArtifact], model: ModelArtifact, tmp_path: Path
) -> None:
    answers = listen_to(open_folder(made("int8").path), [[5, 6, 7]], tmp_path / "heard", num_new_tokens=4)
    other = load_model(model.path, torch.float32)
    other.model.norm.weight.data.mul_(-1.0)
    labels = {"reading": "OpenVINO runs the folder", "refusal": "OpenVINO's folder is not the model"}
    with pytest.raises(
        ValueError, match=r"OpenVINO's folder is not the model: max logit difference .*; accepted: agreement >= 98%"
    ):
        prove_parity(ExportConfig(), answers, TorchRunner(other), **labels)


@installed
@pytest.mark.slow
def test_too_much_rounding_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    with pytest.raises(ValueError, match=r"rounding to int8 costs \S+ nats a token; accepted: 1e-09 or less"):
        run(store, model, questions, weights="int8", max_kl_nats=1e-9)
    assert not list((store.root / "store").glob("export/*")), "refused before anything is kept"


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "opt", "olmo2", "smollm3", "granite"],
)
def test_every_family_in_integers(family: str, store: Store, questions: DatasetArtifact) -> None:
    source = IngestModelConfig(source=f"random:{family}?num_blocks=3&hidden_size=64")
    artifact = run(
        store, ingest_model.execute(source, NoInputs(), store).artifact, questions, weights="int8", max_kl_nats=1.0
    )
    assert artifact.facts.token_agreement == 1.0


def packages(folder: Path, *names: str) -> None:
    """Empty packages of these names: a plan looks for them and imports none."""
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")


def test_the_plan_tells_bytes_and_refuses(
    model: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExportConfig(format={"kind": "openvino", "weights": "int8"})  # type: ignore[arg-type]
    packages(tmp_path, "openvino", "openvino_tokenizers")
    monkeypatch.syspath_prepend(tmp_path)
    expected = export.forecast(config, {"model": (model.facts,)})
    assert (
        expected.facts["weight_bytes"] == model.facts.num_parameters
        and expected.disk_bytes > model.facts.num_parameters
    )
    experts = {**model.facts, "num_experts": 4, "expert_parameters": 1000}
    with pytest.raises(ValueError, match="format.kind is 'openvino', but the model has experts"):
        export.forecast(config, {"model": (experts,)})
    with pytest.raises(ValueError, match="export first, then quantize"):
        export.forecast(config, {"model": ({**model.facts, "quantization": "nf4"},)})


def test_a_package_that_is_not_there_is_named_with_its_install_line(
    model: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"needs the package openvino: pip install 'attar\[openvino\]'"):
        export.forecast(ExportConfig(format={"kind": "openvino"}), {"model": (model.facts,)})  # type: ignore[arg-type]
