"""Guidance folded into plain models and exported with the scale as an input."""

from __future__ import annotations

import json

import pytest
import torch

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.guidance.gap import GuidedText, measure_gap
from attar.compressors.guidance.graph import SCALE_NAME, GuidedGraph
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.guidance_files import load_guidance
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.onnx.guided import prove_scale
from attar.stages.export.stage import export
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.guidance.data.stage import GuideDataInputs, guide_data
from attar.stages.guidance.stage import guide
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.guidance.guided import DRAW, GUIDE, learn, question


@pytest.fixture(scope="module")
def offset(shared_store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    training = GUIDE.training.with_changes(schedule={"num_epochs": 3})
    config = GuideConfig(adapter="offset", rank=16, training=training, max_kl_ratio=1.0)  # type: ignore[arg-type]
    return learn(shared_store, config, taught, drawn)


def test_an_offset_folds_at_a_scale_into_a_plain_model(
    store: Store, taught: list[ModelArtifact], offset: AdapterArtifact
) -> None:
    config = MergeConfig(guidance_scale=2.0)
    merged = merge.execute(config, MergeInputs(base=taught[0], students=(offset,)), store).artifact
    model, plain = load_model(taught[0].path, torch.float32), load_model(merged.path, torch.float32)
    adapters = load_guidance(offset.path, model)
    adapters.attach(model)
    ids = torch.arange(40, 90)[None]
    with torch.no_grad(), adapters.at(2.0):
        expected, folded = model(input_ids=ids).logits, plain(input_ids=ids).logits
    assert (expected - folded).abs().max() < 1e-4
    with torch.no_grad():
        assert (model(input_ids=ids).logits - folded).abs().max() > 1e-2
    assert plain.config.attention_bias and plain.model.layers[0].self_attn.q_proj.bias.abs().max() == 0.0  # type: ignore[union-attr]


def test_what_cannot_be_folded_is_refused_with_the_reason(
    store: Store, taught: list[ModelArtifact], cross: AdapterArtifact, offset: AdapterArtifact
) -> None:
    def refused(adapter: AdapterArtifact, message: str, **config: object) -> None:
        with pytest.raises(ValueError, match=message):
            merge.execute(MergeConfig(**config), MergeInputs(base=taught[0], students=(adapter,)), store)  # type: ignore[arg-type]

    refused(cross, "reads the hidden state and cannot be folded", guidance_scale=2.0)
    refused(offset, "guidance_scale is missing")
    refused(offset, "guidance_scale is 9; trained and accepted: 1 to 3", guidance_scale=9.0)


def test_a_lora_at_one_scale_folds_as_any_other(
    store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact, drawn: DatasetArtifact
) -> None:
    draw = DRAW.with_changes(scales={"min": 2.0, "max": 2.0, "unseen": 0.0})
    at_two = guide_data.execute(draw, GuideDataInputs(model=taught[0], data=guide_questions), store).artifact
    training = GUIDE.training.with_changes(schedule={"num_epochs": 4}, adapt={"rank": 8})
    config = GuideConfig(adapter="lora", training=training)  # type: ignore[arg-type]
    adapter = guide.execute(config, GuideInputs(model=taught[0], data=(at_two,)), store).artifact
    assert float(adapter.facts["kl_ratio_seen"]) < 0.6
    merged = merge.execute(MergeConfig(), MergeInputs(base=taught[0], students=(adapter,)), store).artifact
    assert merged.facts["num_parameters"] == taught[0].facts["num_parameters"]
    with pytest.raises(ValueError, match="adapter lora learns one fixed scale; the data has 1.0 to 3.0"):
        guide.forecast(config, {"model": (taught[0].facts,), "data": (drawn.facts,)})


@pytest.fixture(scope="module")
def onnx(
    shared_store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact, cross: AdapterArtifact
) -> OnnxArtifact:
    inputs = ExportInputs(model=taught[0], data=guide_questions, guidance=cross)
    return export.execute(ExportConfig(num_prompts=2, num_new_tokens=12), inputs, shared_store).artifact


def test_the_exported_graph_takes_the_scale_as_an_input(
    taught: list[ModelArtifact], cross: AdapterArtifact, onnx: OnnxArtifact
) -> None:
    proved = json.loads((onnx.path / "parity.json").read_text())
    assert [number["scale"] for number in proved] == [1, 2, 3]
    session = open_session(onnx.path, is_guided=True)
    assert SCALE_NAME in [entry.name for entry in session.get_inputs()]
    prompt = chat_prompt(load_tokenizer(taught[0].path), question(1, 7))
    texts = {scale: GuidedGraph(session).greedy(prompt, scale, 12)[0] for scale in (1.0, 3.0)}
    model = load_model(taught[0].path, torch.float32)
    assert texts[1.0] == decode(TorchRunner(model), [prompt], max_new_tokens=12, stop_ids=())[0].token_ids
    adapters = load_guidance(cross.path, model)
    adapters.attach(model)
    with adapters.at(3.0):
        assert texts[3.0] == decode(TorchRunner(model), [prompt], max_new_tokens=12, stop_ids=())[0].token_ids
    with pytest.raises(ValueError, match="wants guidance_scale as an input"):
        open_session(onnx.path)


def test_a_pruned_base_learns_guidance_and_recovery_together(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    """Without the factor w - 1 the adapters also act at scale 1, where the pruned base needs healing."""
    pruned = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=taught[0]), store).artifact
    training = GUIDE.training.with_changes(schedule={"num_epochs": 4})
    config = GuideConfig(rank=32, num_tokens=16, num_heads=2, is_base_at_one=False, training=training)  # type: ignore[arg-type]
    inputs = GuideInputs(model=pruned, data=(drawn,), teacher=taught[0])
    adapter = guide.execute(config, inputs, store).artifact
    assert float(adapter.facts["kl_ratio_seen"]) < 0.6
    model, original = load_model(pruned.path, torch.float32), load_model(taught[0].path, torch.float32)
    adapters = load_guidance(adapter.path, model)
    rows = [row for row in read_rows(drawn.path / "rows.jsonl") if row.split == "heldout"][:8]
    at_one = [GuidedText(row.prompt_ids, row.unguided_ids, row.answer_ids, 1.0) for row in rows]
    adapters.attach(model)
    gap = measure_gap(at_one, student=model, guided_at=adapters.set_scale, teacher=original, unguided=original)
    assert gap.ratio < 0.7, "nearer to the original than the pruned base, unguided"


def test_a_graph_that_says_no_number_is_not_proved(
    taught: list[ModelArtifact],
    guide_questions: DatasetArtifact,
    cross: AdapterArtifact,
    onnx: OnnxArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof alone, on a graph that is there: tracing it again takes ten seconds."""
    greedy = GuidedGraph.greedy

    def broken(graph: GuidedGraph, prompt: list[int], scale: float, num_tokens: int) -> tuple[list[int], torch.Tensor]:
        ids, logits = greedy(graph, prompt, scale, num_tokens)
        logits[0, 0] = float("nan")
        return ids, logits

    monkeypatch.setattr(GuidedGraph, "greedy", broken)
    inputs = ExportInputs(model=taught[0], data=guide_questions, guidance=cross)
    model, graph = load_model(taught[0].path, torch.float32), GuidedGraph(open_session(onnx.path, is_guided=True))
    with pytest.raises(ValueError, match="the exported graph is not the model: .* max logit difference nan"):
        prove_scale(ExportConfig(num_prompts=1, num_new_tokens=2), inputs, model, graph, 1.0)
