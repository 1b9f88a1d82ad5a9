"""Evaluate an encoder, torch or graph: graded pairs, retrieval from a corpus, size, and seconds to make vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attar.compressors.encode.encoder import EmbeddingRunner, encoded
from attar.compressors.export.runtime import CPU
from attar.compressors.measure.cost import decode_flops
from attar.compressors.measure.ranking import cosines, ranked
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.kinds.kind_facts import EvaluationFacts
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, TAGGER, subject_of
from attar.stages.artifacts.dataset.measured_data import unique_names
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields, refuse_mixed
from attar.stages.artifacts.text_models import opened
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast
from attar.stages.evaluate.config import CAUSAL_FIELDS, EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.rankings import encoder_headline
from attar.stages.evaluate.retrieval import Task, read_corpus, read_task, timed_texts
from attar.stages.evaluate.timing import embedding_times
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

RESULT = "evaluation.json"
# What models that read whole texts are asked.
QUESTIONS_OF = {
    ENCODER: "pairs with a similarity, or questions with their texts",
    CLASSIFIER: "texts with the names of their classes as answers, or graded pairs",
    TAGGER: "texts with their spans",
}
# Context at which the FLOPs of a token are counted: about the length of a sentence or two.
NUM_CONTEXT_TOKENS = 64


def encoder_evaluation_forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Return what the evaluation will cost. Raises ValueError for what such a model does not do: write, and predict a next token."""
    model = inputs["model"][0]
    subject = subject_of(model)
    refuse_mixed(model, {"beside": inputs.get("beside", ())})
    refuse_causal_fields(
        subject, sorted(config.model_fields_set), CAUSAL_FIELDS, "max_rows, batch_size, precision, provider, part"
    )
    if not inputs.get("tasks"):
        raise ValueError(f"nothing to measure quality on: give the input tasks ({QUESTIONS_OF[subject]})")
    if inputs.get("original"):
        raise ValueError(
            f"input original is what a model drafts for, and {subject.words} drafts nothing; accepted: beside"
        )
    if inputs.get("baseline"):
        raise ValueError(
            f"input baseline is read by stop alone, and {subject.words} is asked everything; accepted: beside"
        )
    if inputs.get("text") and subject is not ENCODER:
        raise ValueError(
            f"input text is a corpus or text to predict, and the model is {subject.words}; accepted: tasks alone"
        )
    if config.provider != CPU and model.get("format") != "onnx":
        raise ValueError(f"provider is {config.provider!r}, but the model is no ONNX graph; accepted: {CPU!r}")
    num_parameters = float(model.get("num_parameters", 0))
    num_rows = num_questions_of(inputs["tasks"], config.max_rows)
    flops = FORWARD * float(model.get("num_matmul_parameters", num_parameters)) * num_rows * TOKENS_PER_ROW
    return Forecast({"part": config.part}, num_flops=flops, peak_memory_bytes=6.0 * num_parameters)


def evaluate_encoder(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure rank correlation, retrieval, size and speed. Raises ValueError, before anything is encoded, for data that say neither."""
    names = unique_names(inputs.tasks, "task")
    corpus = read_corpus(inputs.text) if inputs.text is not None else None
    tasks = {
        name: read_task(data, name, corpus, config.max_rows, config.part)  # type: ignore[arg-type] - the forecast refuses images
        for name, data in zip(names, inputs.tasks, strict=True)
    }
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    runner = opened(inputs.model, config.provider, dtype, device)
    reader = TextReader.of(inputs.model)
    tokens_per_batch = config.batch_size * 128
    vectors = _Vectors(runner, reader, tokens_per_batch)
    evaluation: dict[str, Any] = {
        "format": inputs.model.kind,
        "num_blocks": inputs.model.facts.num_blocks,
        "model_fingerprint": inputs.model.fingerprint,
        "part": config.part,
        **sizes_measured(inputs.model),
        # what an evaluation of a causal model has: nothing of it is measured here
        "tasks": {},
        "right": {},
        "perplexity": None,
        "text_pieces": [],
        "samples": [],
        "pairs": {name: _pairs(task, vectors) for name, task in tasks.items() if task.is_graded},
        "retrieval": {name: _retrieval(task, vectors, name) for name, task in tasks.items() if not task.is_graded},
        "asked": {name: task.digest for name, task in tasks.items()},
    }
    texts = reader(timed_texts(list(tasks.values())))
    beside = opened(inputs.beside, config.provider, dtype, device) if inputs.beside is not None else None
    evaluation["latency"] = row_times(inputs, runner, beside, texts)
    (content / RESULT).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False))
    headline = encoder_headline(evaluation)
    for name, value in headline.items():
        metric(name, value)
    facts = EvaluationFacts(
        format=inputs.model.kind, model_fingerprint=inputs.model.fingerprint, part=config.part, others=headline
    )
    return EvaluationArtifact.at(content, facts)


class _Vectors:
    """Makes the vectors of texts, each text once in one call."""

    def __init__(self, runner: EmbeddingRunner, reader: TextReader, tokens_per_batch: int) -> None:
        self._runner, self._reader, self._tokens_per_batch = runner, reader, tokens_per_batch

    def of(self, texts: Sequence[str], label: str) -> torch.Tensor:
        unique = list(dict.fromkeys(texts))
        counter = bar(label, len(unique), "texts")
        made = encoded(self._runner, self._reader(unique), self._tokens_per_batch, counter.advance)
        index = {text: position for position, text in enumerate(unique)}
        return made[[index[text] for text in texts]]


def _pairs(task: Task, vectors: _Vectors) -> dict[str, list[float]]:
    first, second = task.texts
    made = vectors.of([*first, *second], "encoding pairs")
    return {"cosines": cosines(made[: len(first)], made[len(first) :]), "similarities": list(task.similarities)}


def _retrieval(task: Task, vectors: _Vectors, name: str) -> dict[str, Any]:
    queries, corpus = task.texts
    made = vectors.of([*queries, *corpus], f"encoding {name}")
    rankings = ranked(made[: len(queries)], made[len(queries) :], task.positives)
    return {"ranks": [list(ranking.ranks) for ranking in rankings], "num_texts": len(corpus)}


def sizes_measured(model: Any) -> dict[str, Any]:
    """Return parameters, FLOPs a token and bytes of weights of a model that reads whole texts."""
    facts = model.facts
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    flops = decode_flops(facts.num_matmul_parameters, facts.num_blocks, facts.attention_width, NUM_CONTEXT_TOKENS)
    return {
        "num_parameters": facts.num_parameters,
        "flops_per_token": flops,
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def row_times(
    inputs: EvaluateInputs, runner: EmbeddingRunner, beside: EmbeddingRunner | None, texts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return the seconds that a text takes alone and in a batch. Under `beside` those of the other model in the same rounds."""
    times = embedding_times(runner, beside, texts)
    if inputs.beside is not None and beside is not None:
        times["beside"]["model_fingerprint"] = inputs.beside.fingerprint
    note(
        f"{times['texts_per_second']:,.0f} texts a second in batches of 32, {1e3 * times['embed_seconds']:.1f} ms for a single text"
    )
    return times
