"""Evaluate an encoder, torch or graph: graded pairs, retrieval from a corpus, size, and seconds to make vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from attar.compressors.encode.early_exits import ExitVectors
from attar.compressors.encode.encoder import EmbeddingRunner, encoded
from attar.compressors.measure.cost import decode_flops
from attar.compressors.measure.ranking import cosines, ranked
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, TAGGER, subject_of
from attar.stages.artifacts.dataset.measured_data import unique_names
from attar.stages.artifacts.encoder.folder import form_of
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields, refuse_mixed
from attar.stages.artifacts.text_models import opened
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast
from attar.stages.evaluate.config import CAUSAL_FIELDS, EvaluateConfig, EvaluateInputs, refuse_provider
from attar.stages.evaluate.rankings import encoder_headline
from attar.stages.evaluate.retrieval import Task, read_corpus, read_task, timed_texts
from attar.stages.evaluate.timing import embedding_times
from attar.stages.evaluate.written import base_evaluation, write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, note

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
    refuse_provider(config, model, is_graph=model.get("format") == "onnx")
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
    exits = _exits(inputs.model)
    every = ExitVectors(runner, exits) if exits else runner  # type: ignore[arg-type] - of no graph
    vectors = _Vectors(every, reader, config.batch_size * 128, form_of(inputs.model).prompts)  # type: ignore[arg-type] - an encoder
    made = {name: vectors.of(task, f"encoding {name}").chunk(len(exits) or 1, dim=-1) for name, task in tasks.items()}
    evaluation = base_evaluation(inputs.model, config.part, sizes_measured(inputs.model)) | {
        **_measured(tasks, made),
        # of an encoder that learned at several depths: each exit but the last, which is the encoder
        "exits": {depth: _measured(tasks, made, number) for number, depth in enumerate(exits[:-1])},
        "asked": {name: task.digest for name, task in tasks.items()},
    }
    texts = reader(timed_texts(list(tasks.values())))
    beside = opened(inputs.beside, config.provider, dtype, device) if inputs.beside is not None else None
    evaluation["latency"] = row_times(inputs, runner, beside, texts)
    return write_evaluation(evaluation, encoder_headline(evaluation), content)


def _exits(model: Any) -> tuple[int, ...]:
    """Return the depths at which an encoder is measured, the last its own; none for one that did not learn at several."""
    depth = model.facts.num_blocks
    earlier = tuple(some for some in several(model.facts, "exits") if some < depth)
    return (*earlier, depth) if earlier else ()


class _Vectors:
    """Makes the vectors of a task's texts, each text once in one call."""

    def __init__(
        self, runner: EmbeddingRunner, reader: TextReader, tokens_per_batch: int, prompts: tuple[str, str]
    ) -> None:
        self._runner, self._reader, self._tokens_per_batch, self._prompts = runner, reader, tokens_per_batch, prompts

    def of(self, task: Task, label: str) -> Tensor:
        texts = task.prompted(self._prompts)
        unique = list(dict.fromkeys(texts))
        counter = bar(label, len(unique), "texts")
        made = encoded(self._runner, self._reader(unique), self._tokens_per_batch, counter.advance)
        index = {text: position for position, text in enumerate(unique)}
        return made[[index[text] for text in texts]]


def _measured(tasks: Mapping[str, Task], made: Mapping[str, Sequence[Tensor]], number: int = -1) -> dict[str, Any]:
    """Return what an exit's vectors say of each task; -1: of the last."""
    return {
        "pairs": {name: _pairs(task, made[name][number]) for name, task in tasks.items() if task.is_graded},
        "retrieval": {name: _retrieval(task, made[name][number]) for name, task in tasks.items() if not task.is_graded},
    }


def _pairs(task: Task, made: Tensor) -> dict[str, list[float]]:
    first = len(task.texts[0])
    return {"cosines": cosines(made[:first], made[first:]), "similarities": list(task.similarities)}


def _retrieval(task: Task, made: Tensor) -> dict[str, Any]:
    queries, corpus = task.texts
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
