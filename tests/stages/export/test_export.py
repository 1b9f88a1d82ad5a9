"""The exported folder: what optimum, transformers.js and onnxruntime-genai look for in it, and weights past the 2 GB that one file's graph may hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import AutoConfig, AutoTokenizer

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize
from attar.stages.runtime.progress import Event, Progress, listen

PROOF = ExportConfig(num_prompts=1, num_new_tokens=4)
CHAT = [{"role": "user", "content": "Hi there"}]
LARGEST_MESSAGE = 2**31  # bytes of a protobuf message, which a graph with its weights inside would be


def run(store: Store, model: ModelArtifact, data: DatasetArtifact) -> OnnxArtifact:
    return export.execute(PROOF, ExportInputs(model=model, data=data), store).artifact


def ingested(store: Store) -> ModelArtifact:
    config = IngestModelConfig(source="random:llama?num_blocks=1&hidden_size=32")
    return ingest_model.execute(config, NoInputs(), store).artifact


@pytest.fixture(scope="module", params=["float", "quantized"])
def folder(
    request: pytest.FixtureRequest, shared_store: Store, graph: OnnxArtifact, questions: DatasetArtifact
) -> Path:
    if request.param == "float":
        return graph.path
    config = QuantizeConfig(limits=Limits(max_kl_nats=100.0), measured={"max_tokens": 16})
    return quantize.execute(config, QuantizeInputs(model=graph, data=questions), shared_store).artifact.path


def graph_of(folder: Path) -> Any:
    return onnx.load(folder / "model.onnx", load_external_data=False).graph


def test_the_folder_has_what_other_runtimes_look_for(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.onnx", "model.onnx_data", "config.json", "genai_config.json", "tokenizer.json"}
    locations = {
        entry.value
        for tensor in graph_of(folder).initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"model.onnx_data"}, "one file pair"
    config = json.loads((folder / "config.json").read_text())
    # transformers.js: how many files `model.onnx_data`, `model.onnx_data_1`, ... lie beside the graph
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 1}}


def test_config_tokenizer_and_chat_template_are_the_models(folder: Path, model: ModelArtifact) -> None:
    reference, ours = (AutoTokenizer.from_pretrained(path) for path in (model.path, folder))
    assert ours.chat_template == reference.chat_template
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer_config["chat_template"] == reference.chat_template, "where transformers.js looks for it"
    assert tokenizer_config["tokenizer_class"] == "PreTrainedTokenizerFast", (
        "transformers 4 does not know TokenizersBackend"
    )
    for text in ("What is 1 plus 2?", "naïve ☕"):
        assert ours(text).input_ids == reference(text).input_ids
    assert ours.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == reference.apply_chat_template(
        CHAT, add_generation_prompt=True, tokenize=False
    )
    expected, actual = (AutoConfig.from_pretrained(path).to_dict() for path in (model.path, folder))
    del expected["_name_or_path"]  # where it was read
    assert {name: actual[name] for name in expected} == expected


def test_genai_is_told_the_graphs_own_names_and_sizes(folder: Path) -> None:
    genai_config = json.loads((folder / "genai_config.json").read_text())["model"]
    decoder, stored = genai_config["decoder"], graph_of(folder)
    blocks = range(decoder["num_hidden_layers"])
    for side, values in (("inputs", stored.input), ("outputs", stored.output)):
        given = decoder[side].values()
        names = [
            name % index if "%d" in name else name for name in given for index in (blocks if "%d" in name else [0])
        ]
        assert sorted(names) == sorted(value.name for value in values)
    [key] = [value for value in stored.input if value.name == "past_key_values.0.key"]
    heads, size = (key.type.tensor_type.shape.dim[index].dim_value for index in (1, 3))
    assert (heads, size) == (decoder["num_key_value_heads"], decoder["head_size"])
    [logits] = [value for value in stored.output if value.name == "logits"]
    assert logits.type.tensor_type.shape.dim[2].dim_value == genai_config["vocab_size"]
    config = json.loads((folder / "config.json").read_text())
    assert genai_config["eos_token_id"] == config["eos_token_id"] and genai_config["context_length"] == 1024
    assert decoder["filename"] == "model.onnx" and (folder / decoder["filename"]).exists()


def test_batch_and_lengths_are_free(graph: OnnxArtifact) -> None:
    """By the names that optimum's graphs have."""
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph_of(graph.path).input
    }
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch_size", "sequence_length"]
    assert shapes["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert shapes["past_key_values.3.value"] == ["batch_size", 2, "past_sequence_length", 16]


def test_data_without_a_question_is_refused(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Nobody asks anything here.")
    text = ingest_data.execute(IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}"), NoInputs(), store).artifact
    with pytest.raises(ValueError, match="input data: no row has a question to compare the graph on"):
        run(store, model, text)
    assert not list((store.root / "store").glob("export/*")) and not list((store.root / "work").glob("*"))


def test_every_long_part_shows_its_progress(store: Store, graph: OnnxArtifact, questions: DatasetArtifact) -> None:
    config = QuantizeConfig(limits=Limits(max_kl_nats=100.0), measured={"max_tokens": 16})
    ended: dict[str, bool] = {}

    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            ended[event.label] = event.done == event.total > 0

    with listen(hear):
        export.execute(PROOF, ExportInputs(model=ingested(store), data=questions), store)
        quantize.execute(config, QuantizeInputs(model=graph, data=questions), store)
    assert ended.keys() >= {"tracing the graph", "writing weights", "writing with the graph", "comparing with torch"}
    assert ended.keys() >= {"watching inputs", "quantizing", "asking the original", "measuring the loss"}
    assert all(ended.values()), ended


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_weights_past_two_gigabytes(store: Store, questions: DatasetArtifact) -> None:
    """566 million parameters, 2.3 GB: written, opened by onnxruntime and proved against torch. Needs 5 GB of disk and 6 of memory."""
    try:
        source = IngestModelConfig(source="random:llama?num_blocks=15&hidden_size=2048")
        model = ingest_model.execute(source, NoInputs(), store).artifact
        made = run(store, model, questions)
        assert (made.path / "model.onnx_data").stat().st_size > LARGEST_MESSAGE
        assert (made.path / "model.onnx").stat().st_size < 1_000_000
        assert made.facts["token_agreement"] == 1.0
        reach = max(
            int(entry.value)
            for tensor in graph_of(made.path).initializer
            for entry in tensor.external_data
            if entry.key == "offset"
        )
        assert reach > LARGEST_MESSAGE, "some weights begin past the limit"
    finally:
        shutil.rmtree(store.root, ignore_errors=True)
