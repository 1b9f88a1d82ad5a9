"""Evaluate a model that fills masks. Which questions it answers right, in how many passes a text, and in what time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.masked.form import MaskedForm
from attar.compressors.masked.runner import Filled, MaskedRunner
from attar.compressors.measure.closeness import ratio_of_sums
from attar.compressors.measure.cost import Spread
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import machine_name
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.dataset.measured_data import in_turn, question_rows, unique_names
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.right_answers import right_answers
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast
from attar.stages.evaluate.answers.answering import guessed_share, sample_of
from attar.stages.evaluate.answers.kept_answers import write_answers
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.headline import figure_with_ends, headline_metrics
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.evaluate.written import base_evaluation, write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, note

# What says something of models that write from left to right alone.
OTHER_FIELDS = ("perplexity_window", "harness", "drafts", "stop", "provider")
OTHER_INPUTS = ("text", "original", "baseline", "form", "prefix")
NUM_TIMED_ROUNDS, NUM_TIMED_TEXTS = 3, 4
# From a prompt to nothing: writes one text.
Writer = Callable[[Sequence[int]], object]


def filled_forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Return what the evaluation will cost. Raises ValueError for what is measured of models that write from left to right alone."""
    given = [name for name in OTHER_FIELDS if name in config.model_fields_set]
    if given or config.timing.served is not None:
        raise ValueError(
            f"{[*given, 'timing.served'][0]} is given, but the model fills masks, which it means nothing to; accepted: "
            "max_rows, max_new_tokens, batch_size, num_samples, precision, part, timing.fills"
        )
    for name in OTHER_INPUTS:
        if inputs.get(name):
            raise ValueError(
                f"input {name} is for a model that writes from left to right, and the model fills masks; accepted: tasks, beside"
            )
    if not inputs.get("tasks"):
        raise ValueError("nothing to measure quality on: give the input tasks (questions that are answered in words)")
    if any(facts.get("format") == "onnx" for facts in inputs.get("beside", ())):
        raise ValueError("input beside is an ONNX graph, and the model fills masks in torch; accepted: a model")
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = num_questions_of(inputs["tasks"], config.max_rows)
    flops = FORWARD * num_parameters * num_rows * TOKENS_PER_ROW
    return Forecast({"part": config.part}, num_flops=flops, peak_memory_bytes=6.0 * num_parameters)


def evaluate_filled(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure accuracy, passes a text, tokens a pass and seconds a text. Raises ValueError for a task with choices, which need likelihoods."""
    rows = _rows(config, inputs)
    tokenizer = load_tokenizer(inputs.model.path)
    runner = _runner(config, inputs.model)
    stops = stop_token_ids(tokenizer, runner.model.generation_config)
    texts = _filled(config, runner, [row for some in rows.values() for row in some], tokenizer, stops)
    answers = {prompt: tokenizer.decode(text.token_ids, skip_special_tokens=True) for prompt, text in texts.items()}
    right = {name: right_answers(some, tokenizer, answers) for name, some in rows.items()}

    def sample(row: Row) -> dict[str, str]:
        return sample_of(row, answers[tuple(row_prompt(tokenizer, row))])

    ids = {name: question_ids(some) for name, some in rows.items()}
    write_answers(content, rows, ids, right, sample)
    weights = [path for path in inputs.model.path.iterdir() if path.suffix == ".safetensors"]
    sizes = {
        "num_parameters": inputs.model.facts.num_parameters,
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }
    evaluation = base_evaluation(inputs.model, config.part, sizes) | {
        "tasks": {name: sum(some) / len(some) for name, some in right.items()},
        "right": right,
        "num_rows": {name: len(some) for name, some in right.items()},
        "guessed": {name: guessed_share(some) for name, some in rows.items()},
        "asked": {name: digest([row.question for row in some]) for name, some in rows.items()},
        "question_ids": ids,
        "samples": [sample(row) for row in in_turn(rows)[: config.num_samples]],
        "passes": {name: _passes(some, texts, tokenizer) for name, some in rows.items()},
        "latency": _latency(config, inputs, runner, list(texts), stops),
    }
    headline = headline_metrics(evaluation) | filled_headline(evaluation)
    note(f"{headline['forwards_per_text']:.1f} passes a text, {headline['tokens_per_forward']:.2f} tokens a pass")
    return write_evaluation(evaluation, headline, content)


def filled_headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return `forwards_per_text` and `tokens_per_forward` over all tasks, the first by task too, with intervals."""
    passes = evaluation["passes"]
    forwards, tokens = ([count for task in passes.values() for count in task[name]] for name in ("forwards", "tokens"))
    estimates = {
        "forwards_per_text": ratio_of_sums(forwards, [1.0] * len(forwards)),
        "tokens_per_forward": ratio_of_sums(tokens, forwards),
        **{
            f"forwards_per_text_{name}": ratio_of_sums(task["forwards"], [1.0] * len(task["forwards"]))
            for name, task in passes.items()
        },
    }
    numbers: dict[str, float] = {}
    for name, estimate in estimates.items():
        numbers |= figure_with_ends(name, estimate)
    return numbers


def _rows(config: EvaluateConfig, inputs: EvaluateInputs) -> dict[str, list[Row]]:
    names = unique_names(inputs.tasks, "task")
    rows = {
        name: question_rows(data, config.max_rows, config.part) for name, data in zip(names, inputs.tasks, strict=True)
    }
    for name, some in rows.items():
        if any(row.choices for row in some):
            raise ValueError(
                f"task {name} has choices, which are told by the likelihood of whole texts, and the model fills masks; accepted: questions that "
                "are answered in words"
            )
    return rows


def _runner(config: EvaluateConfig, model: Any) -> MaskedRunner:
    form = MaskedForm.in_config(read_object(model.path / "config.json"))
    assert form is not None, "the model's facts say so"
    device = pick_device()
    return MaskedRunner(load_model(model.path, pick_dtype(config.precision, device), device), form, config.timing.fills)


def _filled(
    config: EvaluateConfig, runner: MaskedRunner, rows: Sequence[Row], tokenizer: Any, stops: Sequence[int]
) -> dict[tuple[int, ...], Filled]:
    """Return what is written to each prompt, those of several rows once."""
    prompts = list(dict.fromkeys(tuple(row_prompt(tokenizer, row)) for row in rows))
    counter = bar("filling answers", len(prompts), "texts")
    filled = runner.fill(
        prompts,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stops,
        batch_size=config.batch_size,
        on_finished=counter.advance,
    )
    return dict(zip(prompts, filled, strict=True))


def _passes(rows: Sequence[Row], texts: Mapping[tuple[int, ...], Filled], tokenizer: Any) -> dict[str, list[int]]:
    """Return the passes and the tokens of each text, in the order of the questions."""
    own = [texts[tuple(row_prompt(tokenizer, row))] for row in rows]
    return {"forwards": [text.num_forwards for text in own], "tokens": [len(text.token_ids) for text in own]}


def _latency(
    config: EvaluateConfig,
    inputs: EvaluateInputs,
    runner: MaskedRunner,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
) -> dict[str, Any]:
    """Return the seconds of a text that is written alone, and under `beside` those of the other model in the same rounds."""
    options: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "stop_ids": stops, "batch_size": 1}
    writers: list[Writer] = [lambda prompt: runner.fill([prompt], **options)]
    if inputs.beside is not None:
        writers.append(_writer_of(config, inputs.beside, options))
    texts = prompts[:: max(1, len(prompts) // NUM_TIMED_TEXTS)][:NUM_TIMED_TEXTS]
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    rounds: list[list[float]] = [[] for _ in writers]
    for _ in range(NUM_TIMED_ROUNDS + 1):  # the first warms up and is not counted
        for writer, own in zip(writers, rounds, strict=True):
            own.append(_seconds(writer, texts) / len(texts))
        counter.advance()
    numbers = [_spread(own[1:]) for own in rounds]
    latency = {
        "num_rounds": NUM_TIMED_ROUNDS,
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
        "num_prompt_tokens": round(sum(map(len, texts)) / len(texts)),
        **numbers[0],
    }
    if inputs.beside is not None:
        latency["beside"] = {**numbers[1], "model_fingerprint": inputs.beside.fingerprint}
    return latency


def _writer_of(config: EvaluateConfig, model: Any, options: Mapping[str, Any]) -> Writer:
    """Return what writes a text as the model does: by filling masks, or from left to right."""
    if MaskedForm.in_config(read_object(model.path / "config.json")) is not None:
        filler = _runner(config, model)
        return lambda prompt: filler.fill([prompt], **options)
    device = pick_device()
    causal = TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))
    return lambda prompt: decode(causal, [prompt], **options)


def _seconds(writer: Writer, prompts: Sequence[Sequence[int]]) -> float:
    started = time.perf_counter()
    for prompt in prompts:
        writer(prompt)  # ids come back: kernels do not run behind the clock
    return time.perf_counter() - started


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(seconds)
    return {"text_seconds": spread.median, f"text_seconds{LOW}": spread.low, f"text_seconds{HIGH}": spread.high}
