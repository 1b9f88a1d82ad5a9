"""Stage `evaluate`: quality, size and speed of one model, Hugging Face or ONNX, by the same yardstick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from compressors.export.runtime import CPU, OnnxRunner
from compressors.measure.cost import flops_per_token, measure_latency
from compressors.measure.decode import decode
from compressors.measure.likelihood import perplexity
from compressors.measure.runner import CausalRunner, TorchRunner
from compressors.self_data.prompts import chat_prompt, stop_token_ids
from registry.artifact import EvaluationArtifact, Facts, ModelArtifact, OnnxArtifact
from registry.fingerprint import folder_digests
from stages.contract import Forecast, stage
from stages.device import pick_device, pick_dtype
from stages.evaluate_config import EvaluateConfig, EvaluateInputs
from stages.measured_data import asked_rows, in_turn, plain_text, unique_names
from stages.model_folder import load_model, load_tokenizer
from stages.onnx_session import open_session
from stages.progress import bar, metric, track
from stages.rows import Row
from stages.size_forecast import flops_of_token
from stages.speculation import best_draft, check_draft, speculation

RESULT = "evaluation.json"
NUM_TIMED_ROUNDS = 3


def _forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (inputs.get("tasks") or inputs.get("text") or config.tasks):
        raise ValueError("nothing to measure quality on: give the input tasks or text, or config tasks")
    if config.provider != CPU and "hidden_size" in inputs["model"][0]:
        raise ValueError(f"provider is {config.provider!r}, but the model is no ONNX graph; accepted: {CPU!r}")
    if inputs.get("original"):
        check_draft(inputs)
    num_original_bytes = 4.0 * sum(float(facts.get("num_parameters", 0)) for facts in inputs.get("original", ()))
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = sum(float(facts.get("num_rows", 0)) for facts in inputs.get("tasks", ()))
    num_rows = min(num_rows, config.max_rows) if config.max_rows else num_rows
    counted = flops_of_token(inputs["model"][0], config.num_prompt_tokens)
    facts: Facts = {"flops_per_token": counted} if counted else {}
    return Forecast(
        facts,
        num_flops=2.0 * num_parameters * num_rows * 200,
        peak_memory_bytes=6.0 * num_parameters + num_original_bytes,
    )


def _outside(config: EvaluateConfig) -> str:
    return json.dumps(folder_digests(Path(config.task_folder)), sort_keys=True) if config.task_folder else ""


@stage("evaluate", version=4, forecast=_forecast, outside=_outside)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, workdir: Path) -> EvaluationArtifact:
    """Measure accuracy (lm-eval), perplexity, parameters, FLOPs a token, disk size, latency, and what the model is worth as a draft.

    Raises ValueError when a text that it drafted, in float32, is not the original's own.
    """
    folder = inputs.model.path
    tokenizer = load_tokenizer(folder)
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    runner = _runner(config, inputs.model)
    has_generation_config = (folder / "generation_config.json").exists()
    generation_config = GenerationConfig.from_pretrained(folder) if has_generation_config else None
    names = unique_names(inputs.tasks, "task")
    rows = {name: asked_rows(data, config.max_rows) for name, data in zip(names, inputs.tasks, strict=True)}
    evaluation: dict[str, Any] = {
        "format": inputs.model.kind,
        "num_blocks": inputs.model.facts["num_blocks"],
        "model_fingerprint": inputs.model.fingerprint,
    }
    evaluation |= _size(config, inputs.model, model_config)
    evaluation["perplexity"] = _perplexity(config, inputs, runner, tokenizer)
    evaluation["tasks"] = _tasks(config, rows, runner, tokenizer, generation_config)
    # what an interval around an accuracy is computed from; lm-eval tasks of the user's own say it themselves
    evaluation["num_rows"] = {name: len(some) for name, some in _by_kind(rows).items()}
    evaluation["samples"] = _samples(config, rows, runner, tokenizer, generation_config)
    evaluation["latency"] = asdict(_latency(config, runner, model_config.vocab_size))
    if inputs.original is not None and isinstance(runner, TorchRunner):  # the forecast refuses a graph that is to draft
        evaluation["speculation"] = speculation(config, runner.model, inputs.original, in_turn(rows))
    (workdir / "content" / RESULT).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False))
    headline = headline_metrics(evaluation)
    for name, value in headline.items():
        metric(name, value)
    measured = {"format": inputs.model.kind, "model_fingerprint": inputs.model.fingerprint}
    return EvaluationArtifact.at(workdir / "content", **measured, **headline)


def headline_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that gates and tables compare, by name."""
    numbers = {
        "num_parameters": evaluation["num_parameters"],
        "flops_per_token": evaluation["flops_per_token"],
        "disk_bytes": evaluation["disk_bytes"],
        "prefill_seconds": evaluation["latency"]["prefill_seconds"],
        "decode_seconds_per_token": evaluation["latency"]["decode_seconds_per_token"],
    }
    if evaluation["perplexity"] is not None:
        numbers["perplexity"] = evaluation["perplexity"]
    if evaluation["tasks"]:
        numbers["accuracy"] = sum(evaluation["tasks"].values()) / len(evaluation["tasks"])
        numbers |= {f"accuracy_{name}": value for name, value in evaluation["tasks"].items()}
    if evaluation.get("speculation"):
        numbers |= best_draft(evaluation["speculation"])
    return {name: float(value) for name, value in numbers.items()}


def _runner(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact) -> CausalRunner:
    if isinstance(model, OnnxArtifact):
        return OnnxRunner(open_session(model.path, config.provider), config.provider)
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))


def _size(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact, model_config: Any) -> dict[str, Any]:
    num_matmul = int(model.facts["num_matmul_parameters"])
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    return {
        "num_parameters": model.facts["num_parameters"],
        "flops_per_token": flops_per_token(num_matmul, model_config, config.num_prompt_tokens),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _perplexity(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, tokenizer: Any) -> float | None:
    if inputs.text is None:
        return None
    token_ids = tokenizer(plain_text(inputs.text), add_special_tokens=False).input_ids
    counter = bar("reading text", max(1, -(-len(token_ids) // config.perplexity_window)), "windows")
    return perplexity(
        runner,
        token_ids,
        window=config.perplexity_window,
        batch_size=max(1, config.batch_size // 4),
        on_scored=counter.advance,
    )


def _tasks(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    runner: CausalRunner,
    tokenizer: Any,
    generation_config: Any,
) -> dict[str, float]:
    """Return accuracy in [0, 1] by task: length-normalised for multiple choice, checked answers for generated ones."""
    from stages.harness import RunnerLM, run_tasks, task_config  # lm-eval: slow to import, and in an extra

    ours = [task_config(name, some, config.max_new_tokens) for name, some in _by_kind(rows).items()]
    tasks: list[Any] = [*config.tasks, *ours]
    if not tasks:
        return {}
    model = RunnerLM(runner, tokenizer, generation_config, config.batch_size)
    results = run_tasks(model, tasks, Path(config.task_folder) if config.task_folder else None)
    return {name: _accuracy(scores) for name, scores in results.items()}


def _by_kind(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Return rows by the name of the task they make: a data set with both kinds of question makes two."""
    found: dict[str, list[Row]] = {}
    for name, some in rows.items():
        choice, generative = [row for row in some if row.choices], [row for row in some if not row.choices]
        is_mixed = bool(choice and generative)
        for chosen, kind in ((choice, "_choice"), (generative, "_open")):
            if chosen:
                found[name + (kind if is_mixed else "")] = chosen
    return found


def _accuracy(scores: Mapping[str, Any]) -> float:
    for metric_name in ("acc_norm", "acc", "exact_match"):
        for key, value in scores.items():
            if key.partition(",")[0] == metric_name:
                return float(value)
    raise ValueError(f"the task reports none of acc_norm, acc, exact_match; it has {', '.join(scores)}")


def _samples(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    runner: CausalRunner,
    tokenizer: Any,
    generation_config: Any,
) -> list[dict[str, str]]:
    samples = []
    for row in track(in_turn(rows)[: config.num_samples], "writing samples", "answers"):
        [generation] = decode(
            runner,
            [chat_prompt(tokenizer, row.question)],
            max_new_tokens=config.max_new_tokens,
            stop_ids=stop_token_ids(tokenizer, generation_config),
        )
        answer = tokenizer.decode(generation.token_ids, skip_special_tokens=True).strip()
        samples.append({"question": row.question, "reference": row.reference or row.answer, "answer": answer})
    return samples


def _latency(config: EvaluateConfig, runner: CausalRunner, vocab_size: int) -> Any:
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    with torch.inference_mode():
        return measure_latency(
            runner,
            vocab_size=vocab_size,
            num_prompt_tokens=config.num_prompt_tokens,
            num_rounds=NUM_TIMED_ROUNDS,
            on_round=counter.advance,
        )
