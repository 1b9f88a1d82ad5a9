"""Stage `compare`: what is left of the original in its students, measured in pairs on the same text and questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from compressors.measure.choices import choice_likelihoods
from compressors.measure.closeness import Estimate, Sums, TextCloseness, closeness_of_each, ratio_of_sums
from compressors.measure.decode import decode
from compressors.measure.likelihood import Pair
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

    names: tuple[str, ...] = ()
    """Of several models, in the order of the input `model`: what their results and facts go by. One model needs none."""

    against: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By those names, a model: the others it is set against. Of each its measures less the other's are told, in pairs of texts."""

    precision: Precision = "auto"
    """Dtype of all models."""


@dataclass(frozen=True, kw_only=True)
class CompareInputs:
    """Students of one original, questions with reference answers, and plain text. Held-out rows are used where there are any."""

    model: tuple[ModelArtifact, ...]
    original: ModelArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    texts: tuple[DatasetArtifact, ...] = ()


def _forecast(config: CompareConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (inputs.get("tasks") or inputs.get("texts")):
        raise ValueError("nothing to compare on: give the input tasks or texts")
    if config.num_own_answers and not inputs.get("tasks"):
        raise ValueError("num_own_answers needs questions: give the input tasks")
    students, original = inputs["model"], inputs["original"][0]
    is_one_unnamed = len(students) == 1 and not config.names
    if not is_one_unnamed and not len(students) == len(config.names) == len(set(config.names)):
        raise ValueError(f"names: {len(config.names)} for {len(students)} models; accepted: one a model, all different")
    for name, others in config.against.items():
        if unknown := {name, *others} - set(config.names):
            raise ValueError(
                f"against: {sorted(unknown)[0]!r} is no model; accepted: {', '.join(config.names) or 'none'}"
            )
        if name in others:
            raise ValueError(f"against: {name!r} is set against itself")
    for student in students:
        check_vocabulary(student, original, "original")
    return Forecast({}, peak_memory_bytes=4.0 * (1 + len(students)) * float(original.get("num_parameters", 0)))


@stage("compare", version=4, forecast=_forecast)
def compare(config: CompareConfig, inputs: CompareInputs, workdir: Path) -> ComparisonArtifact:
    """Measure KL to the original, greedy agreement, loss ratio and paired retention of accuracy, each with a 95% interval.

    Retention is student accuracy / original accuracy; above chance, both less what guessing gives. Several students share what the
    original computes, and `against` tells by how much one differs from another: on the same texts that is known far closer than either
    measure is. Raises ValueError without data, or where the models have no names of their own.
    """
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    tokenizer = load_tokenizer(inputs.original.path)
    students = [TorchRunner(load_model(model.path, dtype, device)) for model in inputs.model]
    original = TorchRunner(load_model(inputs.original.path, dtype, device))
    data_names = unique_names((*inputs.texts, *inputs.tasks), "data")
    texts = {name: _windows(config, data, tokenizer) for name, data in zip(data_names, inputs.texts, strict=False)}
    tasks = zip(data_names[len(texts) :], inputs.tasks, strict=True)
    rows = {name: asked_rows(data, config.max_rows) for name, data in tasks}
    if not all(rows.values()):
        raise ValueError(f"task {next(name for name in rows if not rows[name])}: no row has a question")
    measure = _Measure(config, students, original, tokenizer)
    for name, pairs in texts.items():
        measure.closeness(pairs, name)
    for name, some in rows.items():
        choice, open_ended = [row for row in some if row.choices], [row for row in some if not row.choices]
        if open_ended:
            measure.closeness([_gold(config, row, tokenizer) for row in open_ended], name)
        if choice:
            measure.retention(choice, name)
    if config.num_own_answers:
        questions = [row for some in rows.values() for row in some][: config.num_own_answers]
        measure.closeness(_own_answers(config, original, questions, tokenizer), "own_answers")
    named = dict(zip(config.names or ("",), measure.found, strict=True)) | measure.differences()
    results = named if config.names else measure.found[0]
    (workdir / "content" / RESULT).write_text(json.dumps(results, indent=1))
    facts = {
        f"{model.replace(' ', '_')}{'_' if model else ''}{measured}_{name}": entry["value"]
        for model, found in named.items()
        for name, some in found.items()
        for measured, entry in some.items()
    }
    for name, value in facts.items():
        metric(name, value)
    return ComparisonArtifact.at(workdir / "content", **facts)


class _Measure:
    """Students beside their original; `found` holds, a student, data set -> measure -> estimate, `sums` what those are made of."""

    def __init__(
        self, config: CompareConfig, students: Sequence[TorchRunner], original: TorchRunner, tokenizer: Any
    ) -> None:
        self.config, self.students, self.original, self.tokenizer = config, students, original, tokenizer
        self.names = config.names or ("",)
        self.found: list[dict[str, dict[str, Any]]] = [{} for _ in students]
        self.sums: list[dict[str, list[Sums]]] = [{} for _ in students]

    def closeness(self, pairs: Sequence[Pair], name: str) -> None:
        counter = bar(f"comparing on {name}", len(pairs), "texts")
        scored = closeness_of_each(
            self.students, self.original, pairs, batch_size=self.config.batch_size, on_scored=counter.advance
        )
        for student, texts in enumerate(scored):
            sums = Sums(
                {
                    "kl_nats": [one.kl_nats for one in texts],
                    "agreement": [one.num_agreeing for one in texts],
                    "loss_nats": [one.loss_nats for one in texts],
                },
                [one.num_tokens for one in texts],
            )
            self.sums[student].setdefault(name, []).append(sums)
            summary = sums.estimates() | {"perplexity_ratio": _perplexity_ratio(texts)}
            kl, rise = summary["kl_nats"].value, summary["perplexity_ratio"].value
            self._keep(student, name, summary, f"KL {kl:.3f} nats a token, perplexity x{rise:.3f}")

    def retention(self, rows: Sequence[Row], name: str) -> None:
        """Accuracy by length-normalised likelihood of the choices' texts, in pairs."""
        theirs = _right_choices(self.config, self.original, rows, self.tokenizer, name)
        chance = [1.0 / len(row.choices) for row in rows]
        ones = [1.0] * len(rows)
        for student, runner in enumerate(self.students):
            mine = _right_choices(self.config, runner, rows, self.tokenizer, name)
            self.sums[student].setdefault(name, []).append(Sums({"accuracy": mine}, ones))
            summary = {
                "accuracy": ratio_of_sums(mine, ones),
                "original_accuracy": ratio_of_sums(theirs, ones),
                "retention": ratio_of_sums(mine, theirs),
                "retention_above_chance": ratio_of_sums(
                    [a - c for a, c in zip(mine, chance, strict=True)],
                    [b - c for b, c in zip(theirs, chance, strict=True)],
                ),
            }
            accuracy, reference = summary["accuracy"].value, summary["original_accuracy"].value
            self._keep(student, name, summary, f"{accuracy:.1%} right, original {reference:.1%}")

    def differences(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return, `A less B`, data set -> measure -> estimate of the one's less the other's."""
        place = {name: index for index, name in enumerate(self.names)}
        return {
            f"{name} less {other}": {
                data: {
                    measure: asdict(estimate)
                    for mine, theirs in zip(some, self.sums[place[other]][data], strict=True)
                    for measure, estimate in mine.less(theirs).items()
                }
                for data, some in self.sums[place[name]].items()
            }
            for name, others in self.config.against.items()
            for other in others
        }

    def _keep(self, student: int, name: str, summary: Mapping[str, Estimate], told: str) -> None:
        self.found[student].setdefault(name, {}).update({key: asdict(entry) for key, entry in summary.items()})
        note(f"{' on '.join(part for part in (self.names[student], name) if part)}: {told}")


def _perplexity_ratio(texts: Sequence[TextCloseness]) -> Estimate:
    rise = ratio_of_sums([one.loss_nats - one.original_loss_nats for one in texts], [one.num_tokens for one in texts])
    return Estimate(math.exp(rise.value), math.exp(rise.low), math.exp(rise.high))


def _right_choices(
    config: CompareConfig, runner: TorchRunner, rows: Sequence[Row], tokenizer: Any, name: str
) -> list[float]:
    questions = [
        (
            tokenizer(f"Question: {row.question}\nAnswer:").input_ids,
            [tokenizer(f" {choice}", add_special_tokens=False).input_ids for choice in row.choices],
        )
        for row in rows
    ]
    counter = bar(f"choosing in {name}", len(rows), "questions")
    scored = choice_likelihoods(runner, questions, batch_size=4 * config.batch_size, on_scored=counter.advance)
    right = []
    for row, logprobs in zip(rows, scored, strict=True):
        scores = [logprob / len(choice) for choice, logprob in zip(row.choices, logprobs, strict=True)]
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
