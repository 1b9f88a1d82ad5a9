"""Stage `evaluate`: quality, size and speed of one model, Hugging Face or ONNX, by the same yardstick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids, text_windows
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.cost import flops_per_token
from attar.compressors.measure.likelihood import perplexity_of, piece_losses
from attar.compressors.measure.memory import held_bytes
from attar.compressors.models.runner import CausalRunner, PrefixableRunner, TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import digest, folder_digests
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, IMAGES, TAGGER, fills_masks, subject_of
from attar.stages.artifacts.dataset.measured_data import in_turn, names_ahead, plain_text, question_rows, unique_names
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.size_forecast import flops_of_token
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.prefix.figures import check_prefix, prefix_figures
from attar.stages.artifacts.prefix.folder import prefixed, refuse_others_prefix
from attar.stages.artifacts.serving.load import check_served, served_figures
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast, stage
from attar.stages.evaluate.answers.answering import Answering, by_kind, guessed_share, named_tasks
from attar.stages.evaluate.answers.filled import evaluate_filled, filled_forecast
from attar.stages.evaluate.answers.kept_answers import write_answers
from attar.stages.evaluate.blocks import Blocks, ask_in_blocks, order_seed
from attar.stages.evaluate.classes.classifier import evaluate_classifier
from attar.stages.evaluate.classes.tagger import evaluate_tagger
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs, Measured, refuse_fills, refuse_provider
from attar.stages.evaluate.encoder import encoder_evaluation_forecast, evaluate_encoder
from attar.stages.evaluate.headline import headline_metrics
from attar.stages.evaluate.images.measures import evaluate_images, image_evaluation_forecast
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.evaluate.speculation import check_draft, speculation
from attar.stages.evaluate.timing import timed
from attar.stages.evaluate.written import write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, note

# How models of another subject than causal text are forecast and measured.
TEXTS = dict.fromkeys((ENCODER, CLASSIFIER, TAGGER), encoder_evaluation_forecast)
FORECASTS = {**TEXTS, IMAGES: image_evaluation_forecast}
TEXT_MEASURES = {ENCODER: evaluate_encoder, CLASSIFIER: evaluate_classifier, TAGGER: evaluate_tagger}
MEASURES = {**TEXT_MEASURES, IMAGES: evaluate_images}


def _forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    refuse_other_data(inputs["model"][0], inputs.get("tasks", ()))
    if fills_masks(inputs["model"][0]):
        return filled_forecast(config, inputs)
    refuse_fills(config, inputs.get("beside", ()))
    if inputs.get("form") and config.timing.served is None:
        raise ValueError("form is read where serving is measured: set timing.served, or leave the input out")
    check_prefix(inputs, is_served=config.timing.served is not None)
    if (forecast := FORECASTS.get(subject_of(inputs["model"][0]))) is not None:
        return forecast(config, inputs)
    if not (inputs.get("tasks") or inputs.get("text") or config.harness.tasks):
        raise ValueError("nothing to measure quality on: give the input tasks or text, or config harness.tasks")
    refuse_provider(config, "hidden_size" not in inputs["model"][0])
    if inputs.get("original"):
        check_draft(inputs)
    if config.stop is not None and not inputs.get("tasks"):
        raise ValueError("stop: there is no question to ask; give the input tasks")
    if config.stop is not None and not inputs.get("baseline"):
        raise ValueError(
            "stop: which answers changed is not known without the original's evaluation; give the input baseline"
        )
    if inputs.get("baseline") and config.stop is None:
        raise ValueError("baseline is read by stop alone: set stop, or leave the input out")
    if config.timing.served is not None:
        check_served(config.timing.served, inputs)
    others = (*inputs.get("original", ()), *inputs.get("beside", ()))
    num_original_bytes = 4.0 * sum(float(facts.get("num_parameters", 0)) for facts in others)
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = num_questions_of(inputs.get("tasks", ()), config.max_rows)
    counted = flops_of_token(inputs["model"][0], config.timing.num_prompt_tokens)
    facts: Facts = {"part": config.part} | ({"flops_per_token": counted} if counted else {})
    if not config.harness.tasks and (names := names_ahead(inputs.get("tasks", ()))):
        facts = {**facts, "measured": names}
    return Forecast(
        facts,
        num_flops=FORWARD * num_parameters * num_rows * TOKENS_PER_ROW,
        peak_memory_bytes=6.0 * num_parameters + num_original_bytes,
    )


def _outside(config: EvaluateConfig) -> str:
    return json.dumps(folder_digests(Path(config.harness.folder)), sort_keys=True) if config.harness.folder else ""


@stage(
    "evaluate",
    version=7,
    forecast=_forecast,
    outside=_outside,
    check=refuse_others_prefix,
    mask_filling=("model", "beside"),
)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, workdir: Path) -> EvaluationArtifact:
    """Measure accuracy, perplexity, sizes, FLOPs a token, latency alone and served, and what the model is worth as a draft.

    Of an encoder rank correlation and retrieval; of a classifier accuracy, macro F1 and calibration; of a tagger F1 of spans; size, seconds a text.
    With a prefix all of it behind its vectors, and the KL to the model that reads the demonstrations instead.
    Raises ValueError when a text that it drafted, in float32, is not the original's own.
    """
    from transformers import AutoConfig, GenerationConfig  # a second that a plan need not wait for

    if fills_masks(inputs.model.facts):
        return evaluate_filled(config, inputs, workdir / "content")
    if (measure := MEASURES.get(inputs.model.subject)) is not None:
        return measure(config, inputs, workdir / "content")
    folder = inputs.model.path
    rows = _rows(config, inputs)
    in_stead = inputs.model if inputs.form is None else inputs.form
    served = served_figures(config.timing.served, in_stead, inputs.beside, in_turn(rows), workdir / "content")
    tokenizer = load_tokenizer(folder)
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    plain, has_settings = _runner(config, inputs.model), (folder / "generation_config.json").exists()
    behind = None if inputs.prefix is None else prefixed(plain, inputs.prefix)
    runner = plain if behind is None else behind
    generation_config = GenerationConfig.from_pretrained(folder) if has_settings else None
    evaluation: dict[str, Any] = {
        "format": inputs.model.kind,
        "num_blocks": inputs.model.facts.num_blocks,
        "model_fingerprint": inputs.model.fingerprint,
        "part": config.part,
    }
    _tell_part(config, inputs)
    evaluation |= _size(config, inputs.model, model_config)
    evaluation["memory_bytes"] = held_bytes(runner, evaluation["disk_bytes"], config.timing.num_prompt_tokens)
    evaluation |= _text(config, inputs, runner, tokenizer)
    stop_ids = stop_token_ids(tokenizer, generation_config)
    answering = Answering(runner, tokenizer, stop_ids, config.max_new_tokens, config.batch_size)
    evaluation |= _questions(config, inputs, rows, answering, generation_config, workdir / "content")
    # what two evaluations can be compared on text by text
    evaluation["text"] = inputs.text.fingerprint if inputs.text is not None else ""
    evaluation["latency"] = _latency(config, inputs, runner, model_config.vocab_size)
    evaluation["served"] = served
    if inputs.prefix is not None and behind is not None:
        evaluation["prefix"] = prefix_figures(behind, inputs.prefix, in_turn(rows), tokenizer)
    if inputs.original is not None and runner.torch_model is not None:  # the forecast refuses a graph that is to draft
        evaluation["speculation"] = speculation(config, runner.torch_model, inputs.original, in_turn(rows))
    return write_evaluation(evaluation, headline_metrics(evaluation), workdir / "content")


def _rows(config: EvaluateConfig, inputs: EvaluateInputs) -> dict[str, list[Row]]:
    names = unique_names(inputs.tasks, "task")
    return {
        name: question_rows(data, config.max_rows, config.part) for name, data in zip(names, inputs.tasks, strict=True)
    }


def _tell_part(config: EvaluateConfig, inputs: EvaluateInputs) -> None:
    """Say which data have no rows set apart for choices, where these are asked for."""
    if config.part == "choose":
        note("measured on the rows that choices are made on: figures to choose by, not to report")
        data = [*inputs.tasks, *([inputs.text] if inputs.text is not None else [])]
        for some in data:
            if not split_rows(read_rows(some.path / "rows.jsonl"), "choose"):
                note(shared_rows_note(str(some.facts.get("name", "a data set")), "choose among models"))


def _runner(config: EvaluateConfig, model: Measured) -> PrefixableRunner:
    if model.is_graph:
        return OnnxRunner(open_session(model.path, config.provider), config.provider)
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))


def _size(config: EvaluateConfig, model: Measured, model_config: Any) -> dict[str, Any]:
    num_matmul = model.facts.num_matmul_parameters  # type: ignore[union-attr] - the forecast refuses images
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    return {
        "num_parameters": model.facts.num_parameters,
        "flops_per_token": flops_per_token(num_matmul, model_config, config.timing.num_prompt_tokens),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _latency(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, vocab_size: int) -> dict[str, Any]:
    beside = _runner(config, inputs.beside) if inputs.beside is not None else None
    if inputs.beside is not None:  # the prompt's tokens are drawn from those that both know
        vocab_size = min(vocab_size, inputs.beside.facts.vocab_size)  # type: ignore[union-attr] - the forecast refuses images
    timing = timed(runner, beside, vocab_size=vocab_size, num_prompt_tokens=config.timing.num_prompt_tokens)
    if inputs.beside is not None:
        timing["beside"]["model_fingerprint"] = inputs.beside.fingerprint
    return timing


def _text(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, tokenizer: Any) -> dict[str, Any]:
    """Return the perplexity, what it is made of, and the bytes that were predicted: per byte, models of other tokens compare."""
    if inputs.text is None:
        return {"perplexity": None, "text_pieces": [], "text_bytes": 0}
    windows = text_windows(tokenizer, plain_text(inputs.text, config.part), config.perplexity_window)
    counter = bar("reading text", len(windows), "windows")
    pieces = piece_losses(runner, windows, batch_size=max(1, config.batch_size // 4), on_scored=counter.advance)
    num_bytes = sum(len(tokenizer.decode(part).encode()) for _, part in windows)
    return {"perplexity": perplexity_of(pieces), "text_pieces": pieces, "text_bytes": num_bytes}


def _questions(
    config: EvaluateConfig,
    inputs: EvaluateInputs,
    rows: Mapping[str, Sequence[Row]],
    answering: Answering,
    generation_config: Any,
    content: Path,
) -> dict[str, Any]:
    """Return accuracy in [0, 1] by task, which questions were right, and some answers word for word; keep all of them beside it."""
    sampled = in_turn(rows)[: config.num_samples]
    tasks, right = named_tasks(config, answering, generation_config)
    answered, stopping = by_kind(rows), None
    ids = {name: question_ids(some) for name, some in answered.items()}
    if config.stop is None:
        right |= answering.right(answered, sampled)
    else:
        assert inputs.baseline is not None, "the forecast refuses it"
        seed = order_seed(config.stop, inputs.model.fingerprint)
        blocks = Blocks.of(answered, evaluation_of(inputs.baseline), seed)
        stopping = ask_in_blocks(config.stop, blocks, answering.right)
        answering.right({}, sampled)
        right |= blocks.right
        ids = {name: blocks.ids[name][: len(some)] for name, some in blocks.right.items()}
        answered = {name: blocks.rows[name][: len(some)] for name, some in blocks.right.items()}
    write_answers(content, answered, ids, right, answering.sample)
    return {
        "tasks": tasks | {name: sum(right[name]) / len(right[name]) for name in answered},
        "right": right,
        "num_rows": {name: len(some) for name, some in right.items()},
        "guessed": {name: guessed_share(some) for name, some in answered.items()},
        # what two evaluations can be compared on, all questions at once and question by question
        "asked": {name: digest([row.question for row in some]) for name, some in answered.items()},
        "question_ids": ids,
        "stopping": stopping,
        "samples": [answering.sample(row) for row in sampled],
    }
