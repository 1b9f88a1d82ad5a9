"""Training through the rounding: what learns is what the graph will store, to the number, and it comes nearer to the float model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.adapt.quantization_aware import QuantizationAware
from attar.compressors.quantize.roundings import BlockIntegers
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.kept_weights import WEIGHTS_FILE
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.quantize.graph import QuantizedGraph
from attar.stages.quantize.stage import QuantizeConfig
from tests.stages.finetune.test_distil import train

AWARE = {
    "adapt": {"kind": "quantization_aware", "rounding": {"kind": "blocks", "bits": 4, "block_size": 16}},
    "objectives": {"forward_kl": 1.0},
    "learning_rate": 3e-4,
    "num_epochs": 12,
}
IDS = torch.arange(4, 36)[None]


def test_the_first_pass_is_the_rounded_models_and_the_gradient_the_weights_own(model: ModelArtifact) -> None:
    rounding = BlockIntegers(block_size=16)
    aware = QuantizationAware(rounding=rounding, head=None)(load_model(model.path, torch.float32), 0)
    plain = load_model(model.path, torch.float32)
    for name, module in plain.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounding(module.weight.data)
            assert torch.equal(aware.model.layers.get_submodule(name).weight, module.weight)
    logits = [some.train()(input_ids=IDS).logits for some in (aware, plain)]
    assert torch.equal(*logits)
    for some in logits:
        some.square().mean().backward()
    first, second = aware.model.layers[1].mlp.up_proj, plain.model.layers[1].mlp.up_proj
    torch.testing.assert_close(first.parametrizations.weight.original.grad, second.weight.grad)


def test_blocks_before_the_first_trained_are_rounded_for_good(model: ModelArtifact) -> None:
    rounding = BlockIntegers(block_size=16)
    aware = QuantizationAware(rounding=rounding)(load_model(model.path, torch.float32), 2)
    plain = load_model(model.path, torch.float32)
    before = aware.model.layers[0].mlp.up_proj.weight
    assert not before.requires_grad
    assert torch.equal(before, rounding(plain.model.layers[0].mlp.up_proj.weight.data))
    table = aware.get_input_embeddings().weight
    assert torch.equal(table, BlockIntegers(bits=8)(plain.get_input_embeddings().weight.data))


def test_it_learns_and_the_graph_stores_what_was_trained(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    adapter, curves = train(store, model, questions, AWARE, teacher=model)
    losses = curves["heldout_forward_kl_nats"]
    assert min(losses) < 0.8 * losses[0], "the loss of rounding itself is what it begins with"
    saved = load_file(adapter.path / WEIGHTS_FILE)
    names = load_model(model.path, torch.float32).state_dict().keys()
    assert saved.keys() <= names and "model.layers.0.mlp.up_proj.weight" in saved
    folded = merge.execute(MergeConfig(method="fold"), MergeInputs(base=model, students=(adapter,)), store).artifact
    graph = export.execute(
        ExportConfig(num_prompts=1, num_new_tokens=4), ExportInputs(model=folded, data=questions), store
    ).artifact
    config = QuantizeConfig.model_validate(
        {
            "limits": {"max_kl_nats": 9.0},
            "weights": {"bits": 4, "block_size": 16},
            "method": "nearest",
            "smooth": 0.0,
        }
    )
    stored = QuantizedGraph(config, Path(graph.path), [IDS[0].tolist()]).integers
    rounding, state = BlockIntegers(block_size=16), load_model(folded.path, torch.float32).state_dict()
    blocks = [name for name in stored if "lm_head" not in name and "embed" not in name]
    assert len(blocks) == 7 * 4
    for name in blocks:
        matches = [key for key in state if key.endswith(f"{name}.weight")]
        assert len(matches) == 1, name
        assert torch.equal(stored[name].dequantized(), rounding(state[matches[0]]))


def test_refused_before_work(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    with pytest.raises(ValueError, match=r"rounding 'blocks': bits is 5; accepted: 4 or 8"):
        train(
            store,
            model,
            questions,
            {"adapt": {"kind": "quantization_aware", "rounding": {"kind": "blocks", "bits": 5}}},
        )
    with pytest.raises(ValueError, match=r"unknown rounding 'q5_9'"):
        train(store, model, questions, {"adapt": {"kind": "quantization_aware", "rounding": {"kind": "q5_9"}}})


def test_a_grid_that_the_runtime_does_not_have_is_refused_in_one_line() -> None:
    def read(**adapt: object) -> FinetuneConfig:
        return FinetuneConfig.model_validate({"adapt": {"kind": "quantization_aware", **adapt}})

    with pytest.raises(
        ValueError,
        match=r"adapt.rounding is a grid of llama.cpp, which runtime 'onnxruntime' does not have; accepted: \{kind: blocks\}",
    ):
        read(rounding={"kind": "q4_0"}, runtime="onnxruntime")
    with pytest.raises(
        ValueError, match=r"adapt.head is a grid of onnxruntime.* accepted: \{kind: q4_0\}, \{kind: q8_0\}"
    ):
        read(rounding={"kind": "q4_0"}, runtime="llama.cpp")
    for grids in (
        {"runtime": "onnxruntime"},
        {"rounding": {"kind": "q4_0"}, "head": {"kind": "q8_0"}, "runtime": "llama.cpp"},
    ):
        assert read(**grids).adapt.kind == "quantization_aware"
