"""Stage `evaluate`: quality, size and speed of one model, Hugging Face or ONNX, by the same yardstick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids, text_windows
from attar.compressors.export.runtime import CPU, OnnxRunner
from attar.compressors.measure.cost import flops_per_token
from attar.compressors.measure.likelihood import perplexity_of, piece_losses
from attar.compressors.models.runner import CausalRunner, ForkingRunner, TorchRunner
from attar.registry.artifacts.fingerprint import digest, folder_digests
from attar.registry.artifacts.handles import EvaluationArtifact, Facts, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.kind_facts import EvaluationFacts
from attar.stages.artifacts.dataset.measured_data import in_turn, plain_text, question_rows, unique_names
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.right_answers import right_answers, right_choices, written_answers
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.size_forecast import flops_of_token
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast, stage
from attar.stages.evaluate.config import COUNTED, EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.headline import headline_metrics
from attar.stages.evaluate.speculation import check_draft, speculation
from attar.stages.evaluate.timing import timed
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

RESULT = "evaluation.json"


def _forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (inputs.get("tasks") or inputs.get("text") or config.tasks):
        raise ValueError("nothing to measure quality on: give the input tasks or text, or config tasks")
    if config.provider != CPU and "hidden_size" in inputs["model"][0]:
        raise ValueError(f"provider is {config.provider!r}, but the model is no ONNX graph; accepted: {CPU!r}")
    if inputs.get("original"):
        check_draft(inputs)
    others = (*inputs.get("original", ()), *inputs.get("beside", ()))
    num_original_bytes = 4.0 * sum(float(facts.get("num_parameters", 0)) for facts in others)
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = num_questions_of(inputs.get("tasks", ()), config.max_rows)
    counted = flops_of_token(inputs["model"][0], config.num_prompt_tokens)
    facts: Facts = {"part": config.part} | ({"flops_per_token": counted} if counted else {})
    return Forecast(
        facts,
        num_flops=FORWARD * num_parameters * num_rows * TOKENS_PER_ROW,
        peak_memory_bytes=6.0 * num_parameters + num_original_bytes,
    )


def _outside(config: EvaluateConfig) -> str:
    return json.dumps(folder_digests(Path(config.task_folder)), sort_keys=True) if config.task_folder else ""


@stage("evaluate", version=5, forecast=_forecast, outside=_outside)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, workdir: Path) -> EvaluationArtifact:
    """Measure accuracy, perplexity, parameters, FLOPs a token, disk size, latency, and what the model is worth as a draft.

    Raises ValueError when a text that it drafted, in float32, is not the original's own.
    """
    from transformers import AutoConfig, GenerationConfig  # a second that a plan need not wait for

    folder = inputs.model.path
    tokenizer = load_tokenizer(folder)
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    runner = _runner(config, inputs.model)
    has_generation_config = (folder / "generation_config.json").exists()
    generation_config = GenerationConfig.from_pretrained(folder) if has_generation_config else None
    names = unique_names(inputs.tasks, "task")
    rows = {
        name: question_rows(data, config.max_rows, config.part) for name, data in zip(names, inputs.tasks, strict=True)
    }
    evaluation: dict[str, Any] = {
        "format": inputs.model.kind,
        "num_blocks": inputs.model.facts.num_blocks,
        "model_fingerprint": inputs.model.fingerprint,
        "part": config.part,
    }
    _tell_part(config, inputs)
    evaluation |= _size(config, inputs.model, model_config)
    evaluation |= _text(config, inputs, runner, tokenizer)
    evaluation |= _questions(config, rows, runner, tokenizer, generation_config)
    # what two evaluations can be compared on text by text
    evaluation["text"] = inputs.text.fingerprint if inputs.text is not None else ""
    evaluation["latency"] = _latency(config, inputs, runner, model_config.vocab_size)
    if inputs.original is not None and runner.torch_model is not None:  # the forecast refuses a graph that is to draft
        evaluation["speculation"] = speculation(config, runner.torch_model, inputs.original, in_turn(rows))
    (workdir / "content" / RESULT).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False))
    headline = headline_metrics(evaluation)
    for name, value in headline.items():
        metric(name, value)
    facts = EvaluationFacts(
        format=inputs.model.kind, model_fingerprint=inputs.model.fingerprint, part=config.part, others=headline
    )
    return EvaluationArtifact.at(workdir / "content", facts)


def _tell_part(config: EvaluateConfig, inputs: EvaluateInputs) -> None:
    """Say which data have no rows set apart for choices, where these are asked for."""
    if config.part == "choose":
        note("measured on the rows that choices are made on: figures to choose by, not to report")
        data = [*inputs.tasks, *([inputs.text] if inputs.text is not None else [])]
        for some in data:
            if not split_rows(read_rows(some.path / "rows.jsonl"), "choose"):
                note(shared_rows_note(str(some.facts.get("name", "a data set")), "choose among models"))


def _runner(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact) -> ForkingRunner:
    if model.is_graph:
        return OnnxRunner(open_session(model.path, config.provider), config.provider)
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))


def _size(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact, model_config: Any) -> dict[str, Any]:
    num_matmul = model.facts.num_matmul_parameters
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    return {
        "num_parameters": model.facts.num_parameters,
        "flops_per_token": flops_per_token(num_matmul, model_config, config.num_prompt_tokens),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _latency(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, vocab_size: int) -> dict[str, Any]:
    beside = _runner(config, inputs.beside) if inputs.beside is not None else None
    if inputs.beside is not None:  # the prompt's tokens are drawn from those that both know
        vocab_size = min(vocab_size, inputs.beside.facts.vocab_size)
    timing = timed(runner, beside, vocab_size=vocab_size, num_prompt_tokens=config.num_prompt_tokens)
    if inputs.beside is not None:
        timing["beside"]["model_fingerprint"] = inputs.beside.fingerprint
    return timing


def _text(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, tokenizer: Any) -> dict[str, Any]:
    """Return the perplexity, what it is made of, and the bytes that were predicted: per byte, models of other tokens compare."""
    if inputs.text is None:
        return {"perplexity": None, "text_pieces": [], "text_bytes": 0}
    windows = text_windows(tokenizer, plain_text(inputs.text, config.part), config.perplexity_window)
    counter = bar("reading text", len(windows), "windows")
    pieces = piece_losses(
        runner,
        windows,
        batch_size=max(1, config.batch_size // 4),
        on_scored=counter.advance,
    )
    num_bytes = sum(len(tokenizer.decode(part).encode()) for _, part in windows)
    return {"perplexity": perplexity_of(pieces), "text_pieces": pieces, "text_bytes": num_bytes}


def _questions(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    runner: ForkingRunner,
    tokenizer: Any,
    generation_config: Any,
) -> dict[str, Any]:
    """Return accuracy in [0, 1] by task, which questions were right, and some answers word for word."""
    sampled = in_turn(rows)[: config.num_samples]
    # written together, answers that are checked and those that are only read: a step of one row costs about as much as one of many
    written = [row for some in rows.values() for row in some if not row.choices] + sampled
    answers = written_answers(
        runner,
        written,
        tokenizer,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stop_token_ids(tokenizer, generation_config),
        batch_size=config.batch_size,
    )
    tasks, right = _named_tasks(config, runner, tokenizer, generation_config)
    by_kind = _by_kind(rows)
    for name, some in by_kind.items():
        right[name] = (
            right_choices(runner, some, tokenizer, batch_size=config.batch_size, name=name)
            if some[0].choices
            else right_answers(some, tokenizer, answers)
        )
        tasks[name] = sum(right[name]) / len(right[name])
    return {
        "tasks": tasks,
        "right": right,
        "num_rows": {name: len(some) for name, some in right.items()},
        # what two evaluations can be compared on question by question
        "asked": {name: digest([row.question for row in some]) for name, some in by_kind.items()},
        "samples": [_sample(row, answers[tuple(row_prompt(tokenizer, row))]) for row in sampled],
    }


def _named_tasks(
    config: EvaluateConfig, runner: ForkingRunner, tokenizer: Any, generation_config: Any
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return accuracy by task, and which questions were right, of the tasks in `task_folder`."""
    if not config.tasks:
        return {}, {}
    try:
        from attar.stages.evaluate.harness import RIGHT, RunnerLM, run_tasks  # lm-eval: slow to import, and in an extra
    except ImportError as error:
        raise ValueError(f"tasks {', '.join(config.tasks)} need lm-eval: install attar[eval]") from error
    model = RunnerLM(runner, tokenizer, generation_config, config.batch_size)
    results = run_tasks(model, config.tasks, Path(config.task_folder))
    right = {name: scores.pop(RIGHT) for name, scores in results.items()}
    return {name: _accuracy(scores) for name, scores in results.items()}, right


def _by_kind(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Return rows by the name of the task they make: a data set with both kinds of question makes two."""
    counts: dict[str, list[Row]] = {}
    for name, some in rows.items():
        choice, generative = [row for row in some if row.choices], [row for row in some if not row.choices]
        is_mixed = bool(choice and generative)
        for chosen, kind in ((choice, "_choice"), (generative, "_open")):
            if chosen:
                counts[name + (kind if is_mixed else "")] = chosen
    return counts


def _accuracy(scores: Mapping[str, Any]) -> float:
    for metric_name in COUNTED:
        for key, value in scores.items():
            if key.partition(",")[0] == metric_name:
                return float(value)
    raise ValueError(f"the task reports none of {', '.join(COUNTED)}; it has {', '.join(scores)}")


def _sample(row: Row, answer: str) -> dict[str, str]:
    return {"question": row.question, "reference": row.reference or row.answer, "answer": answer.strip()}
