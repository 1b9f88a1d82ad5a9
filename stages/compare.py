"""Stage `compare`: what is left of the original in a student, measured in pairs on the same text and questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from compressors.measure.closeness import Estimate, TextCloseness, closeness, ratio_of_sums
from compressors.measure.decode import decode
from compressors.measure.likelihood import Pair, continuation_likelihoods
from compressors.measure.runner import TorchRunner
from compressors.self_data.prompts import chat_prompt, stop_token_ids
from registry.artifact import ComparisonArtifact, DatasetArtifact, Facts, ModelArtifact
from stages.contract import Forecast, StageConfig, check_vocabulary, stage
from stages.device import Precision, pick_device, pick_dtype
from stages.measured_data import asked_rows, plain_text, unique_names
from stages.model_folder import load_model, load_tokenizer
from stages.progress import bar, metric, note
from stages.rows import Row

RESULT = "comparison.json"


class CompareConfig(StageConfig):
    """How much is compared."""

    max_rows: int = Field(default=0, ge=0)
    """Rows of each task; 0: all it has."""

    max_tokens: int = Field(default=512, ge=8)
    """Window of plain text, and the longest answer scored, in tokens."""

    max_text_tokens: int = Field(default=0, ge=0)
    """Tokens of each text; 0: all."""

    num_own_answers: int = Field(default=0, ge=0)
    """Questions that the original answers greedily, its answers then scored under both; 0: none."""

    max_new_tokens: int = Field(default=160, ge=1)
    """Longest of those answers in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Texts in one forward pass."""

    precision: Precision = "auto"
    """Dtype of both models."""


@dataclass(frozen=True, kw_only=True)
class CompareInputs:
    """Student and original, questions with reference answers, and plain text. Held-out rows are used where there are any."""

    model: ModelArtifact
    original: ModelArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    texts: tuple[DatasetArtifact, ...] = ()


def _forecast(config: CompareConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (inputs.get("tasks") or inputs.get("texts")):
        raise ValueError("nothing to compare on: give the input tasks or texts")
    if config.num_own_answers and not inputs.get("tasks"):
        raise ValueError("num_own_answers needs questions: give the input tasks")
    model, original = inputs["model"][0], inputs["original"][0]
    check_vocabulary(model, original, "original")
    return Forecast({}, peak_memory_bytes=8.0 * float(original.get("num_parameters", 0)))


@stage("compare", version=1, forecast=_forecast)
def compare(config: CompareConfig, inputs: CompareInputs, workdir: Path) -> ComparisonArtifact:
    """Measure KL to the original, greedy agreement, loss ratio and paired retention of accuracy, each with a 95% interval.

    Retention is student accuracy / original accuracy; above chance, both less what guessing gives. Raises ValueError without data.
    """
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    tokenizer = load_tokenizer(inputs.original.path)
    models = (
        TorchRunner(load_model(inputs.model.path, dtype, device)),
        TorchRunner(load_model(inputs.original.path, dtype, device)),
    )
    names = unique_names((*inputs.texts, *inputs.tasks), "data")
    texts = {name: _windows(config, data, tokenizer) for name, data in zip(names, inputs.texts, strict=False)}
    tasks = zip(names[len(texts) :], inputs.tasks, strict=True)
    rows = {name: asked_rows(data, config.max_rows) for name, data in tasks}
    if not all(rows.values()):
        raise ValueError(f"task {next(name for name in rows if not rows[name])}: no row has a question")
    found: dict[str, dict[str, Any]] = {}
    for name, pairs in texts.items():
        found[name] = _closeness(config, models, pairs, name)
    for name, some in rows.items():
        choice, open_ended = [row for row in some if row.choices], [row for row in some if not row.choices]
        if open_ended:
            found[name] = _closeness(config, models, [_gold(config, row, tokenizer) for row in open_ended], name)
        if choice:
            found.setdefault(name, {}).update(_retention(config, models, choice, tokenizer, name))
    if config.num_own_answers:
        questions = [row for some in rows.values() for row in some][: config.num_own_answers]
        pairs = _own_answers(config, models[1], questions, tokenizer)
        found["own_answers"] = _closeness(config, models, pairs, "own answers")
    (workdir / "content" / RESULT).write_text(json.dumps(found, indent=1))
    facts = {f"{measure}_{name}": entry["value"] for name, some in found.items() for measure, entry in some.items()}
    for name, value in facts.items():
        metric(name, value)
    return ComparisonArtifact.at(workdir / "content", **facts)


def _closeness(
    config: CompareConfig, models: tuple[TorchRunner, TorchRunner], pairs: Sequence[Pair], name: str
) -> dict[str, Any]:
    counter = bar(f"comparing on {name}", len(pairs), "texts")
    texts = closeness(*models, pairs, batch_size=config.batch_size, on_scored=counter.advance)
    tokens = [one.num_tokens for one in texts]
    summary = {
        "kl_nats": ratio_of_sums([one.kl_nats for one in texts], tokens),
        "agreement": ratio_of_sums([one.num_agreeing for one in texts], tokens),
        "loss_nats": ratio_of_sums([one.loss_nats for one in texts], tokens),
        "perplexity_ratio": _perplexity_ratio(texts),
    }
    note(f"{name}: KL {summary['kl_nats'].value:.3f} nats a token, perplexity x{summary['perplexity_ratio'].value:.3f}")
    return {measure: asdict(entry) for measure, entry in summary.items()}


def _perplexity_ratio(texts: Sequence[TextCloseness]) -> Estimate:
    rise = ratio_of_sums([one.loss_nats - one.original_loss_nats for one in texts], [one.num_tokens for one in texts])
    return Estimate(math.exp(rise.value), math.exp(rise.low), math.exp(rise.high))


def _retention(
    config: CompareConfig, models: tuple[TorchRunner, TorchRunner], rows: Sequence[Row], tokenizer: Any, name: str
) -> dict[str, Any]:
    """Accuracy by length-normalised likelihood of the choices' texts, in pairs."""
    mine, theirs = (_right_choices(config, runner, rows, tokenizer, name) for runner in models)
    chance = [1.0 / len(row.choices) for row in rows]
    ones = [1.0] * len(rows)
    summary = {
        "accuracy": ratio_of_sums(mine, ones),
        "original_accuracy": ratio_of_sums(theirs, ones),
        "retention": ratio_of_sums(mine, theirs),
        "retention_above_chance": ratio_of_sums(
            [a - c for a, c in zip(mine, chance, strict=True)], [b - c for b, c in zip(theirs, chance, strict=True)]
        ),
    }
    note(f"{name}: {summary['accuracy'].value:.1%} right, original {summary['original_accuracy'].value:.1%}")
    return {measure: asdict(entry) for measure, entry in summary.items()}


def _right_choices(
    config: CompareConfig, runner: TorchRunner, rows: Sequence[Row], tokenizer: Any, name: str
) -> list[float]:
    pairs = []
    for row in rows:
        context = tokenizer(f"Question: {row.question}\nAnswer:").input_ids
        pairs += [(context, tokenizer(f" {choice}", add_special_tokens=False).input_ids) for choice in row.choices]
    counter = bar(f"choosing in {name}", len(pairs), "choices")
    scored = iter(continuation_likelihoods(runner, pairs, batch_size=4 * config.batch_size, on_scored=counter.advance))
    right = []
    for row in rows:
        scores = [one.logprob_nats / len(choice) for choice, one in zip(row.choices, scored, strict=False)]
        right.append(float(scores.index(max(scores)) == row.answer_index))
    return right


def _own_answers(config: CompareConfig, original: TorchRunner, rows: Sequence[Row], tokenizer: Any) -> list[Pair]:
    stop_ids = stop_token_ids(tokenizer, original.model.generation_config)
    prompts = sorted((chat_prompt(tokenizer, row.question) for row in rows), key=len)
    counter = bar("the original answers", len(prompts), "questions")
    pairs: list[Pair] = []
    for start in range(0, len(prompts), 4 * config.batch_size):
        part = prompts[start : start + 4 * config.batch_size]
        written = decode(original, part, max_new_tokens=config.max_new_tokens, stop_ids=stop_ids)
        pairs += [(prompt, one.token_ids) for prompt, one in zip(part, written, strict=True)]
        counter.advance(len(part))
    return pairs


def _windows(config: CompareConfig, data: DatasetArtifact, tokenizer: Any) -> list[Pair]:
    ids = tokenizer(plain_text(data), add_special_tokens=False).input_ids
    ids = ids[: config.max_text_tokens or len(ids)]
    windows = [ids[start : start + config.max_tokens] for start in range(0, len(ids), config.max_tokens)]
    return [(window[:1], window[1:]) for window in windows if len(window) > 1]


def _gold(config: CompareConfig, row: Row, tokenizer: Any) -> Pair:
    answer = tokenizer(row.reference or row.answer, add_special_tokens=False).input_ids
    return chat_prompt(tokenizer, row.question), [*answer[: config.max_tokens], tokenizer.eos_token_id]
