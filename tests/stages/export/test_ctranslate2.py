"""The CTranslate2 form: written by its own converter, opened by its generator, which says and writes what torch does.

Wanted: `pip install 'attar[ctranslate2]'` here, or in a folder that PYTHONPATH names; without it what needs no runtime is tested.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import pad_left, pad_right
from attar.registry.artifacts.handles import CTranslate2Artifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.ctranslate2.families import FAMILIES
from attar.stages.export.ctranslate2.runner import open_folder
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES as TINY_FAMILIES

PROOF = {"num_prompts": 2, "num_new_tokens": 12}
installed = pytest.mark.skipif(
    find_spec("ctranslate2") is None, reason="ctranslate2 is not installed: pip install 'attar[ctranslate2]'"
)
SOURCES = [name for name, kind in TINY_FAMILIES.items() if kind in FAMILIES]


def run(store: Store, model: ModelArtifact, data: DatasetArtifact, **form: Any) -> CTranslate2Artifact:
    config = ExportConfig(format={"kind": "ctranslate2", **form}, **PROOF)
    return export.execute(config, ExportInputs(model=model, data=data), store).artifact  # type: ignore[return-value]


@installed
@pytest.mark.parametrize(("weights", "bits"), [("float32", 32.0), ("int8", 8.0)])
def test_the_runtime_computes_the_model(
    weights: str, bits: float, shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    artifact = run(shared_store, model, questions, weights=weights)
    facts = artifact.facts
    assert facts.readers == ("ctranslate2",) and facts.quantization == weights and facts.architecture == "llama"
    if weights == "float32":
        assert facts.token_agreement == 1.0 and facts.max_logit_difference is not None
        assert facts.max_logit_difference < 1e-3, "float32 in another order of sums"
    else:
        assert facts.kl_nats is not None and 0 < facts.kl_nats < 0.05
        with pytest.raises(ValueError, match=r"rounding to int8 costs \S+ nats a token; accepted: 1e-09 or less"):
            run(shared_store, model, questions, weights=weights, max_kl_nats=1e-9)
    assert facts.bits_per_weight is not None and bits - 0.5 < facts.bits_per_weight < bits + 2
    assert facts.decode_seconds_per_token and facts.original_decode_seconds_per_token
    names = {path.name for path in artifact.path.iterdir()}
    assert names >= {"model.bin", "config.json", "vocabulary.json", "tokenizer.json", "proof.json"}
    vocabulary = json.loads((artifact.path / "vocabulary.json").read_text())
    assert vocabulary == load_tokenizer(model.path).convert_ids_to_tokens(list(range(len(vocabulary))))


@installed
def test_padding_on_either_side_leaves_the_logits_as_they_are(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    runner = open_folder(run(shared_store, model, questions).path, "float32", [2])
    reference = TorchRunner(load_model(model.path, torch.float32))
    for pad in (pad_left, pad_right):
        ids, mask = pad([[5, 6, 7], [9, 10, 11, 12, 13]], torch.device("cpu"))
        (logits, _), (expected, _) = (each.forward(ids, mask, None, last_only=False) for each in (runner, reference))
        is_token = mask.bool()
        torch.testing.assert_close(logits[is_token], expected[is_token], atol=1e-3, rtol=0)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("family", SOURCES)
def test_every_family_says_what_torch_says(family: str, store: Store, questions: DatasetArtifact) -> None:
    source = IngestModelConfig(source=f"random:{family}?num_blocks=3&hidden_size=64")
    artifact = run(store, ingest_model.execute(source, NoInputs(), store).artifact, questions)
    assert artifact.facts.token_agreement == 1.0


def test_the_plan_tells_bytes_and_refuses(
    model: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExportConfig(format={"kind": "ctranslate2", "weights": "int8"})  # type: ignore[arg-type]
    (tmp_path / "ctranslate2").mkdir()
    (tmp_path / "ctranslate2" / "__init__.py").write_text("")  # a plan looks for it and does not import it
    monkeypatch.syspath_prepend(tmp_path)
    expected = export.forecast(config, {"model": (model.facts,)})
    assert (
        expected.facts["weight_bytes"] == model.facts.num_parameters
        and expected.disk_bytes > model.facts.num_parameters
    )
    with pytest.raises(ValueError, match=r"not written for the family 'Qwen3NextForCausalLM'; accepted: llama, "):
        export.forecast(config, {"model": ({**model.facts, "architecture": "Qwen3NextForCausalLM"},)})


def test_the_package_that_is_not_there_is_named_with_its_install_line(
    model: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"needs the package ctranslate2: pip install 'attar\[ctranslate2\]'"):
        export.forecast(ExportConfig(format={"kind": "ctranslate2"}), {"model": (model.facts,)})  # type: ignore[arg-type]
