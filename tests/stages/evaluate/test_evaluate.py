"""Evaluation: one yardstick for Hugging Face and ONNX, by lm-eval, on data sets and on task files of your own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, EvaluationArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.runtime.progress import Note, listen

CONFIG = EvaluateConfig(
    max_rows=6,
    max_new_tokens=8,
    num_samples=3,
    timing={"num_prompt_tokens": 16},
    perplexity_window=64,
    precision="float32",
)


@pytest.fixture(scope="module")
def inputs(shared_store: Store, questions: DatasetArtifact, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": f"Pick {i}", "choices": ["red", "a blue one", "no"], "answer": i % 3} for i in range(9)]
    (folder / "colors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "story.txt").write_text("The boat came in at dawn, and nobody saw it. " * 12)
    sources = (f"jsonl:{folder / 'colors.jsonl'}", f"text:{folder / 'story.txt'}")
    colors, story = (
        ingest_data.execute(IngestDataConfig(source=source, heldout_fraction=0.0), NoInputs(), shared_store).artifact
        for source in sources
    )
    return {"tasks": (colors, questions), "text": story}


def content(artifact: EvaluationArtifact) -> dict:
    return json.loads((artifact.path / "evaluation.json").read_text())


def test_torch_and_onnx_are_measured_alike(
    store: Store, model: ModelArtifact, graph: OnnxArtifact, inputs: dict
) -> None:
    torch_scores = evaluate.execute(CONFIG, EvaluateInputs(model=model, **inputs), store).artifact
    onnx_scores = evaluate.execute(CONFIG, EvaluateInputs(model=graph, beside=model, **inputs), store).artifact
    first, second = content(torch_scores), content(onnx_scores)
    assert first["tasks"] == second["tasks"] and set(first["tasks"]) == {"colors", "sums"}
    assert first["perplexity"] == pytest.approx(second["perplexity"], rel=1e-4)
    assert first["samples"] == second["samples"] and len(first["samples"]) == 3
    assert first["num_parameters"] == second["num_parameters"] == model.facts["num_parameters"]
    assert first["flops_per_token"] == second["flops_per_token"] > 2 * int(model.facts["num_matmul_parameters"])
    for scores in (first, second):
        assert scores["disk_bytes"] > 4 * scores["num_parameters"]
        assert scores["latency"]["prefill_seconds"] > 0 and scores["latency"]["decode_seconds_per_token"] > 0
    assert {"accuracy", "accuracy_colors", "perplexity", "decode_seconds_per_token"} <= torch_scores.facts.keys()
    # what the figures are known from, question by question and piece by piece, and the ends of their intervals
    for scores in (first, second):
        assert {name: sum(right) / len(right) for name, right in scores["right"].items()} == pytest.approx(
            scores["tasks"]
        )
        assert {name: len(right) for name, right in scores["right"].items()} == scores["num_rows"]
    lines = [json.loads(line) for line in (torch_scores.path / "records" / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [name for ids in first["question_ids"].values() for name in ids]
    written = {line["question"]: line["answer"] for line in lines if line["task"] == "sums"}
    sampled = {sample["question"]: sample["answer"] for sample in first["samples"] if sample["question"] in written}
    assert sampled and sampled == {question: written[question] for question in sampled}
    nats, counts = zip(*first["text_pieces"], strict=True)
    assert first["perplexity"] == pytest.approx(math.exp(sum(nats) / sum(counts)))
    facts = torch_scores.facts
    for name in ("accuracy", "accuracy_colors", "perplexity", "decode_seconds_per_token"):
        assert float(facts[f"{name}_low"]) <= float(facts[name]) <= float(facts[f"{name}_high"]), name
    assert facts["num_questions"] == sum(first["num_rows"].values()) and facts["num_text_tokens"] == sum(counts)
    # the graph was timed in turns with the model: its ratio is of those, the accuracy's of the same questions
    assert second["latency"]["beside"]["model_fingerprint"] == model.fingerprint
    ratios = paired_ratios(second, first)
    assert ratios["decode_seconds_per_token"].measured_on == "5 rounds, in turns"
    assert (
        ratios["accuracy"].value == 1.0 and ratios["accuracy"].measured_on == f"{int(facts['num_questions'])} questions"
    )
    assert ratios["perplexity"].value == pytest.approx(1.0, rel=1e-4)


def test_task_files_of_ones_own_run_under_lm_eval(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(
        "\n".join(json.dumps({"q": f"{i}?", "c": ["yes", "no"], "a": 0}) for i in range(4))
    )
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs:\n  data_files: {tmp_path / 'mine.jsonl'}\n  cache_dir: {tmp_path / 'cache'}\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: '{{a}}'\nmetric_list:\n  - metric: acc\n"
    )
    config = CONFIG.with_changes(task_folder=str(tmp_path), tasks=["mine"], num_samples=0)
    scores = content(evaluate.execute(config, EvaluateInputs(model=model), store).artifact)
    assert 0.0 <= scores["tasks"]["mine"] <= 1.0
    assert scores["perplexity"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tasks": ["mine"]}, "belong together"), ({"task_folder": "/no/such", "tasks": ["a"]}, "is not a folder")],
)
def test_task_options_that_contradict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**options)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to measure quality on"):
        evaluate.forecast(CONFIG, {"model": ({},)})


def test_text_without_text_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    with pytest.raises(ValueError, match="the data set has no text rows"):
        evaluate.execute(CONFIG, EvaluateInputs(model=model, text=questions), store)


def test_export_fails_when_the_text_differs(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    strict = ExportConfig(num_prompts=1, num_new_tokens=4, max_logit_difference=1e-12)
    with pytest.raises(ValueError, match="the exported graph is not the model: max logit difference"):
        export.execute(strict, ExportInputs(model=model, data=questions), store)
    assert not list((store.root / "store").glob("export/*"))


def test_exported_folder_stands_alone(graph: OnnxArtifact, tmp_path: Path) -> None:
    """onnxruntime and tokenizers are enough: greedy text from the folder, without torch or transformers."""
    import os
    import subprocess
    import sys

    script = """
import json, sys
import numpy, onnxruntime, tokenizers
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
ids = tokenizer.encode("What is 1 plus 2?").ids
past = {e.name: numpy.zeros((1, e.shape[1], 0, e.shape[3]), numpy.float32) for e in session.get_inputs() if e.name.startswith("past")}
fed, mask, out = ids, len(ids), []
for _ in range(8):
    feeds = {"input_ids": numpy.array([fed]), "attention_mask": numpy.ones((1, mask), numpy.int64)}
    feeds["position_ids"] = numpy.arange(mask - len(fed), mask)[None]
    logits, *present = session.run(None, feeds | past)
    past = dict(zip(past, present))
    fed, mask = [int(logits[0, -1].argmax())], mask + 1
    out += fed
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(json.dumps(out))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(graph.path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ),
        check=True,
    )
    from attar.compressors.export.runtime import OnnxRunner
    from attar.compressors.models.decode import decode
    from attar.stages.artifacts.model.folder import load_tokenizer

    ids = load_tokenizer(graph.path)("What is 1 plus 2?").input_ids
    assert (
        json.loads(done.stdout)
        == decode(OnnxRunner(open_session(graph.path)), [ids], max_new_tokens=8, stop_ids=())[0].token_ids
    )


def test_a_graph_runs_on_as_many_threads_as_torch_and_says_so(graph: OnnxArtifact) -> None:

    before = torch.get_num_threads()
    notes: list[str] = []
    torch.set_num_threads(3)
    try:
        with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
            session = open_session(graph.path)
    finally:
        torch.set_num_threads(before)
    assert session.get_session_options().intra_op_num_threads == 3
    assert notes == ["onnxruntime on CPUExecutionProvider, 3 threads"]
