"""Packed folders: transformers reads them as the rounded model to the bit, their facts are counted, and what cannot be is refused in a line."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import folder_facts, load_model
from attar.stages.contract import NoInputs
from attar.stages.export.compressed_tensors.packing import count_packed
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.ingest.model_folders import ingest

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not installed"
)
LAYOUTS = {"W4A16": "pack-quantized", "W8A16": "pack-quantized", "W8A8": "int-quantized", "FP8": "float-quantized"}
NUM_MATRICES = 4 * 7


def config(scheme: str = "W4A16", max_kl_nats: float = 100.0, **options: Any) -> ExportConfig:
    form = {
        "kind": "compressed_tensors",
        "scheme": scheme,
        "limits": {"max_kl_nats": max_kl_nats},
        "calibration": {"max_tokens": 32, "max_rows": 4, "num_samples": 6},
        **options,
    }
    return ExportConfig.model_validate({"format": form, "num_prompts": 1, "num_new_tokens": 6})


def run(store: Store, model: ModelArtifact, data: DatasetArtifact, **options: Any) -> ModelArtifact:
    made = export.execute(config(**options), ExportInputs(model=model, data=data), store).artifact
    assert isinstance(made, ModelArtifact)
    return made


def unpacked(folder: Path) -> dict[str, torch.Tensor]:
    """Matrices of a packed folder, worked out from its bytes without the package: value = code * scale."""
    tensors = load_file(folder / "model.safetensors")
    dense = {}
    for name, scale in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        module = name.removesuffix(".weight_scale")
        if f"{module}.weight_packed" in tensors:
            rows, width = tensors[f"{module}.weight_shape"].tolist()
            packed = tensors[f"{module}.weight_packed"].numpy().view("uint32").astype("int64")
            bits = packed.shape[1] * 32 // width
            codes = torch.from_numpy(packed)[:, :, None] >> torch.arange(0, 32, bits)
            codes = (codes & (2**bits - 1)).flatten(1) - 2 ** (bits - 1)
            assert codes.shape == (rows, width)
        else:
            codes = tensors[f"{module}.weight"].float()
        groups = codes.float().unflatten(1, (scale.shape[1], -1))
        dense[f"{module}.weight"] = (groups * scale.float()[..., None]).flatten(1)
    return dense


@needs_package
@pytest.mark.parametrize("scheme", LAYOUTS)
def test_transformers_reads_the_folder_as_the_numbers_that_its_codes_stand_for(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact, scheme: str
) -> None:
    made = run(shared_store, model, questions, scheme=scheme)
    assert made.facts.max_logit_difference == 0.0 and made.facts.token_agreement == 1.0
    packing = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert (packing["quant_method"], packing["format"]) == ("compressed-tensors", LAYOUTS[scheme])
    assert packing["ignore"] == ["lm_head"]
    dense = unpacked(made.path)
    assert len(dense) == NUM_MATRICES
    loaded, plain = load_model(made.path, torch.float32), load_model(model.path, torch.float32)
    stored = load_file(made.path / "model.safetensors")
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(dense[name] if name in dense else stored[name].float())
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        expected, logits = plain(input_ids=ids).logits, loaded(input_ids=ids).logits
    if scheme in ("W4A16", "W8A16"):
        assert torch.equal(logits, expected), "to the bit"
    else:
        apart = float((logits - expected).abs().max() / expected.abs().max())
        assert 0 < apart < 0.2, "their readers round the inputs too"


@needs_package
def test_facts_are_counted_from_what_was_written(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    made = run(shared_store, model, questions)
    facts = made.facts
    num_packed, num_bytes = count_packed(made.path, 4)
    assert (
        num_packed
        == sum(weight.numel() for weight in unpacked(made.path).values())
        == facts["num_block_matmul_parameters"]
    )
    assert facts.weight_bytes == num_bytes <= (made.path / "model.safetensors").stat().st_size
    assert facts.bits_per_weight == pytest.approx(8 * num_bytes / facts.num_parameters)
    assert facts.packed_fraction == pytest.approx(num_packed / facts.num_parameters)
    # 4 bits and a 16 bit scale for 64 of them; the rest of this small model has 16
    inside = 4 + 16 / 64
    share = facts["packed_fraction"]
    assert facts["bits_per_weight"] == pytest.approx(share * inside + 16 * (1 - share), rel=0.05)
    assert (facts.quantization, facts.format, facts.dtype) == ("W4A16", "compressed_tensors", "bfloat16")
    assert float(facts["kl_nats"]) > 0 and 0 < float(facts["size_fraction"]) < 0.5
    assert folder_facts(made.path)["num_parameters"] == model.facts.num_parameters
    with (made.path / "modules.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    errors = [float(row["output_error"]) for row in rows]
    assert len(rows) == NUM_MATRICES and errors == sorted(errors, reverse=True) and errors[-1] > 0


@needs_package
def test_more_bits_and_better_methods_lose_less(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    lost = {
        name: float(run(shared_store, model, questions, **options).facts["kl_nats"])
        for name, options in {
            "eight": {"scheme": "W8A16"},
            "refined": {},
            "nearest": {"method": "nearest"},
        }.items()
    }
    assert lost["eight"] < 0.2 * lost["refined"] and lost["refined"] < lost["nearest"]


@needs_package
def test_a_matrix_may_stay_in_float_and_is_told(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    made = run(shared_store, model, questions, scheme="W8A16", exclude=["layers.0.mlp.down_proj"])
    assert len(unpacked(made.path)) == NUM_MATRICES - 1
    assert (
        "model.layers.0.mlp.down_proj"
        in json.loads((made.path / "config.json").read_text())["quantization_config"]["ignore"]
    )
    assert "model.layers.0.mlp.down_proj,,excluded" in (made.path / "modules.csv").read_text()


@needs_package
def test_a_packed_folder_comes_in_again_as_floats(
    store: Store, shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    made = run(shared_store, model, questions, scheme="W8A16")
    taken = ingest(store, f"folder:{made.path}")
    tensors = load_file(taken.path / "model.safetensors")
    for name, weight in unpacked(made.path).items():
        assert torch.equal(tensors[name], weight.bfloat16()), name
    with pytest.raises(ValueError, match=r"the input is in W8A16: export first, then quantize"):
        export.forecast(config(), {"model": (made.facts,), "data": ({},)})


@needs_package
def test_too_great_a_loss_fails_and_names_the_worst(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match=r"packed model loses too much: KL .* <= 1e-06; .* output lost: model\.layers"):
        run(store, model, questions, max_kl_nats=1e-6)
    assert not list((store.root / "store").glob("export/*"))


@needs_package
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "random:llama",
            {"exclude": ["attn.nothing"]},
            "exclude has 'attn.nothing', which no matrix of the blocks ends with",
        ),
        ("random:gpt2", {}, r"the blocks hold no plain matrices \(nn.Linear\)"),
        ("random:llama", {"group_size": 128}, "width 64 is no multiple of the group size 128"),
        ("random:llama?hidden_size=40", {"scheme": "W8A8"}, "is not in multiples of 16"),
    ],
)
def test_what_a_scheme_cannot_pack_is_refused_before_weights_are_read(
    store: Store, questions: DatasetArtifact, source: str, options: dict[str, Any], message: str
) -> None:
    odd = ingest_model.execute(IngestModelConfig(source=source), NoInputs(), store).artifact
    with pytest.raises(ValueError, match=message):
        run(store, odd, questions, **options)


def test_the_package_is_named_with_its_install_line(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "compressed_tensors" else find_spec(name, *rest),
    )
    with pytest.raises(
        ValueError, match=r"needs the package compressed-tensors: pip install 'attar\[compressed-tensors\]'"
    ):
        run(store, model, questions)


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        ({"quantization": "nf4"}, {}, "format.kind is 'compressed_tensors', but the input is in nf4"),
        ({"hidden_size": 72}, {}, "group_size is one of 128, 64, 32, which does not divide the model's width 72"),
        ({"hidden_size": 576}, {"group_size": 128}, "group_size is 128, which does not divide the model's width 576"),
        (
            {"num_experts": 8, "expert_parameters": 10, "num_parameters": 100},
            {"scheme": "FP8"},
            "fused experts are not packed: 80% of this model would stay in float",
        ),
    ],
)
def test_a_plan_refuses_what_facts_alone_tell(facts: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.forecast(config(**options), {"model": (facts,), "data": ({},)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "W8A8", "group_size": 64}, "group_size is 64, but W8A8 has a scale a row"),
        ({"scheme": "FP8", "method": "nearest"}, "FP8 takes the nearest float8"),
        ({"method": "gptq"}, "gptq"),
        ({"params": {"damping": 0.0}}, "damping is 0.0; accepted: above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_a_plan_tells_bytes_and_kind(model: ModelArtifact) -> None:
    plan = export.forecast(config(), {"model": (model.facts,), "data": ({},)})
    assert plan.facts["quantization"] == "W4A16" and export.output_type(config(), ModelArtifact) is ModelArtifact
    assert 0 < plan.disk_bytes < 2 * model.facts.num_parameters
