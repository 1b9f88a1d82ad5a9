"""A graph in fewer bits: what is lost is measured and held to a limit, the costliest nodes are found and kept, tied weights stay one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from attar.registry.artifacts.handles import DatasetArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_folder import disk_bytes, write_graph
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.quantize import calibration_taps
from attar.stages.quantize.calibration_taps import input_moments
from attar.stages.quantize.graph import QuantizedGraph
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.proof import prove_graph
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize

LOOSE = Limits(max_kl_nats=100.0)


def exported(family: str, data: DatasetArtifact, store: Store) -> OnnxArtifact:
    config = IngestModelConfig(source=f"random:{family}?num_blocks=2&hidden_size=64&seed=0")
    model = ingest_model.execute(config, NoInputs(), store).artifact
    return export.execute(
        ExportConfig(num_prompts=1, num_new_tokens=8), ExportInputs(model=model, data=data), store
    ).artifact


def run(store: Store, graph: OnnxArtifact, data: DatasetArtifact, **options: object) -> OnnxArtifact:
    config = QuantizeConfig(**{"limits": LOOSE, "max_tokens": 32, "num_rank_tokens": 24} | options)  # type: ignore[arg-type]
    return quantize.execute(config, QuantizeInputs(model=graph, data=data), store).artifact


def kl(artifact: OnnxArtifact) -> float:
    return float(artifact.facts["kl_nats"])


def test_more_bits_and_better_methods_lose_less(
    shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    eight = run(shared_store, graph, questions)
    four = {
        method: run(shared_store, graph, questions, bits=4, method=method)
        for method in ("nearest", "searched", "error_corrected")
    }
    assert 0 < kl(eight) < 0.01 and float(eight.facts["agreement"]) > 0.8  # near-ties of a random model
    assert kl(eight) < kl(four["error_corrected"]) < kl(four["nearest"])
    assert disk_bytes(four["nearest"].path) < disk_bytes(eight.path) < 0.8 * disk_bytes(graph.path)
    assert eight.facts["size_fraction"] == pytest.approx(disk_bytes(eight.path) / disk_bytes(graph.path))
    for bits, artifact in ((8, eight), (4, four["nearest"])):
        config = QuantizeConfig(limits=LOOSE, weights={"bits": bits})  # type: ignore[arg-type]
        planned = quantize.forecast(config, {"model": (graph.facts,), "data": ({},)})
        assert planned.facts["weight_bytes"] == pytest.approx(float(artifact.facts["weight_bytes"]), rel=0.5)
    saved = json.loads((eight.path / "quality.json").read_text())
    assert saved["kl_nats"] == kl(eight) and saved["num_tokens"] > 30


def test_the_evaluations_tasks_run_on_it_as_on_the_float_graph(
    shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    config = EvaluateConfig(max_rows=3, max_new_tokens=4, num_samples=0, timing={"num_prompt_tokens": 8})
    before, after = (
        evaluate.execute(config, EvaluateInputs(model=some_graph, tasks=(questions,)), shared_store).artifact.facts
        for some_graph in (graph, run(shared_store, graph, questions))
    )
    assert before.keys() == after.keys() >= {"accuracy_sums", "decode_seconds_per_token"}
    assert float(after["disk_bytes"]) < 0.8 * float(before["disk_bytes"])
    assert after["num_parameters"] == before["num_parameters"]


def test_dynamic_int8(shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact) -> None:
    dynamic = run(shared_store, graph, questions, kind="dynamic")
    assert 0 < kl(dynamic) < 1.0 and dynamic.facts["quantization"] == "dynamic int8"


@pytest.mark.parametrize("kind", ["dynamic", "weights"])
def test_the_written_graph_is_tried_without_the_rounding_of_its_inputs(
    kind: str, shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    """By its products as float products of the written codes: to float32's digits the rounded weights, with a cache as without."""
    quantized = run(shared_store, graph, questions, kind=kind)
    lines = (quantized.path / "records" / "metrics.jsonl").read_text().splitlines()
    metrics = {entry["name"]: entry["value"] for entry in map(json.loads, lines)}
    assert 0 <= metrics["proof_rounded_error"] < 1e-4 and 0 <= metrics["proof_cache_error"] < 1e-4
    saved = json.loads((quantized.path / "quality.json").read_text())
    for name in ("decode_seconds_per_token", "original_decode_seconds_per_token"):
        assert 0 < saved[f"{name}_low"] <= saved[name] <= saved[f"{name}_high"], "a time has its quartiles"


@pytest.mark.parametrize("damage", ["codes", "scales"])
def test_a_dynamic_graph_with_other_numbers_fails(
    damage: str, shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    config = QuantizeConfig(limits=LOOSE, weights={"kind": "dynamic"})  # type: ignore[arg-type]
    quantized = QuantizedGraph(config, graph.path, [[5, 6, 7]])
    content, vocab_size = tmp_path / "content", int(graph.facts["vocab_size"])
    content.mkdir()
    written = quantized.with_floats([])
    stored = next(
        value
        for name, value in written.graph.initializers.items()
        if name.endswith(".int8" if damage == "codes" else ".scales")
    )
    numbers = np.array(stored.const_value.numpy())
    numbers[0] += numbers.dtype.type(9 if damage == "codes" else 0.1)
    stored.const_value = ir.tensor(numbers, name=stored.name)
    write_graph(written, content)
    with pytest.raises(ValueError, match="the written graph computes otherwise than with the numbers"):
        prove_graph(quantized, [], content, tmp_path / "scratch", vocab_size)


def test_no_sum_of_8_bit_products_outgrows_16_bits(
    shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    """Processors with AVX2 and no VNNI add two products of unsigned and signed bytes in 16 bits and cut the rest in silence.

    Of our graphs those of kind dynamic have such products; the blocks of MatMulNBits were bit for bit alike there (see docs).
    """
    kinds = {
        kind: onnx.load(run(shared_store, graph, questions, kind=kind).path / "model.onnx")
        for kind in ("dynamic", "weights")
    }
    operators = {kind: {node.op_type for node in model.graph.node} for kind, model in kinds.items()}
    signed = {"MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "ConvInteger", "QGemm"}
    assert operators["dynamic"] & signed == {"DynamicQuantizeMatMul"} and not operators["weights"] & signed
    folder = str(run(shared_store, graph, questions, kind="dynamic").path)
    codes = [
        numpy_helper.to_array(tensor, folder)
        for tensor in kinds["dynamic"].graph.initializer
        if tensor.name.endswith(".int8")
    ]
    assert codes
    for matrix in codes:  # inputs by outputs: two neighbouring inputs are added
        pairs = np.abs(matrix.astype(np.int64)).reshape(-1, 2, matrix.shape[1]).sum(axis=1)
        assert 255 * pairs.max() <= np.iinfo(np.int16).max


def test_too_great_a_loss_fails_and_names_the_worst(
    store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    strict = Limits(max_kl_nats=1e-9, min_agreement=0.5)
    message = r"loses too much: KL [\d.e-]+, accepted <= 1e-09; costliest alone, KL in nats: (model\.layers|lm_head)"
    with pytest.raises(ValueError, match=message):
        run(store, graph, questions, limits=strict)
    assert not list((store.root / "store").glob("quantize/*"))


def test_the_costliest_nodes_are_kept_until_the_target_is_met(
    shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    options = {"bits": 4, "head_bits": 4, "method": "nearest"}
    without = run(shared_store, graph, questions, **options)
    target = kl(without) / 3
    quantized = run(shared_store, graph, questions, **options, max_kept=30, target_kl_nats=target)
    assert 0 < int(quantized.facts["num_kept"]) < 29 and kl(quantized) < kl(without)
    with (quantized.path / "nodes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 7 + 1
    costs = [float(row["kl_nats"]) for row in rows]
    assert costs == sorted(costs, reverse=True) and costs[-1] >= 0
    names = json.loads((quantized.path / "quality.json").read_text())["kept"]
    assert names == [row["name"] for row in rows[: len(names)]], "the costliest, none else"


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "phi3"])
def test_other_families(family: str, shared_store: Store, questions: DatasetArtifact) -> None:
    """Tied and untied heads, products with a bias (Gemm), scaled embeddings, fused matrices."""
    four = run(shared_store, exported(family, questions, shared_store), questions, bits=8, head_bits=8)
    assert kl(four) < 0.02 and float(four.facts["agreement"]) > 0.8
    assert float(four.facts["size_fraction"]) < 0.75


@pytest.mark.parametrize("head_bits", [8, 4])
def test_a_tied_head_stays_one_tensor(head_bits: int, shared_store: Store, questions: DatasetArtifact) -> None:
    import onnx

    graph = exported("gemma2", questions, shared_store)
    small = run(shared_store, graph, questions, head_bits=head_bits)
    stored = onnx.load(small.path / "model.onnx", load_external_data=False).graph
    vocabulary = [
        tensor
        for tensor in stored.initializer
        if tensor.dims and tensor.dims[0] == 259 and tensor.name.endswith("codes")
    ]
    assert len(vocabulary) == 1
    assert {"GatherBlockQuantized", "MatMulNBits"} <= {node.op_type for node in stored.node}


def test_excluded_nodes_stay_in_float(shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact) -> None:
    some = run(shared_store, graph, questions, bits=4, exclude=["mlp.down_proj", "lm_head"])
    assert kl(some) < kl(run(shared_store, graph, questions, bits=4))
    with pytest.raises(ValueError, match="leaves no product to quantize"):
        run(shared_store, graph, questions, exclude=["proj", "lm_head"])


def test_a_quantized_graph_is_not_quantized_again(
    shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    small = run(shared_store, graph, questions)
    config = QuantizeConfig(limits=LOOSE)
    with pytest.raises(ValueError, match="quantized already"):
        quantize.forecast(config, {"model": (small.facts,), "data": ({},)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "limits"),
        ({"limits": {"max_kl_nats": 0}}, "greater than 0"),
        ({"limits": {"max_kl_nats": 1}, "method": "gptq"}, "unknown method 'gptq'"),
        ({"limits": {"max_kl_nats": 1}, "method": "error_corrected", "params": {"damping": 0}}, "damping is 0"),
        ({"limits": {"max_kl_nats": 1}, "kind": "dynamic", "bits": 4}, "kind is 'dynamic'"),
    ],
)
def test_bad_configs_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeConfig(**options)


def test_an_old_folder_that_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    from attar.stages.artifacts.onnx_session import open_session

    with pytest.raises(ValueError, match=r"model\.onnx does not open on CPUExecutionProvider"):
        open_session(tmp_path)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_moments_are_those_that_torch_sees(
    family: str, shared_store: Store, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(family, questions, shared_store).path
    config = IngestModelConfig(source=f"random:{family}?num_blocks=2&hidden_size=64&seed=0")
    model = load_model(
        ingest_model.execute(config, NoInputs(), shared_store).artifact.path, torch.float32, torch.device("cpu")
    )
    samples = [[3, 9, 4, 1, 7], [5, 2], [8, 8, 6]]
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str, inputs: torch.Tensor) -> None:
        rows = inputs.flatten(0, -2)
        seen[name] = seen.get(name, 0) + rows.T @ rows / 10

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs[0]))
    with torch.inference_mode():
        for sample in samples:
            model(torch.tensor([sample]))
    for max_bytes, is_diagonal in ((1, False), (1 << 30, False), (1 << 30, True)):  # each input alone, and all at once
        monkeypatch.setattr(calibration_taps, "MAX_BYTES", max_bytes)
        moments_by_name = {
            name: moments
            for part in input_moments(folder, samples, is_diagonal=is_diagonal)
            for name, moments in part.items()
        }
        assert moments_by_name.keys() == seen.keys()
        for name, moments in moments_by_name.items():
            expected = seen[name].diagonal() if is_diagonal else seen[name]
            torch.testing.assert_close(moments, expected, rtol=1e-4, atol=1e-5, msg=name)
