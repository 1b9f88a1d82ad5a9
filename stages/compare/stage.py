"""Stage `compare`: retention of the original in its students, measured in pairs on the same text and questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar.compressors.measure.closeness import Estimate, Sums, TextCloseness, closeness_of_each, ratio_of_sums
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ComparisonArtifact, ModelArtifact
from attar.registry.release.figures import HIGH, LOW
from attar.registry.release.gate import known
from attar.stages.artifacts.dataset.measured_data import names_ahead, question_rows, unique_names
from attar.stages.artifacts.dataset.right_answers import right_choices
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.shared_vocabulary import keep_shared, shared_rows, smallest_vocabulary
from attar.stages.artifacts.work_forecast import TOKENS_PER_ROW, comparison_flops, num_questions_of
from attar.stages.compare.config import CompareConfig, CompareInputs
from attar.stages.compare.pairs import gold, own_answers, windows
from attar.stages.contract import Forecast, check_covers, stage
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

RESULT = "comparison.json"
# What intervals are made of, text by text, by the fingerprints of the models.
TEXTS = "texts.json"


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
    for student in students:  # over the tokens that all know
        check_covers(original, student, "original")
    num_models = 1 + len(config.groups(len(students))[0])
    names = names_ahead((*inputs.get("texts", ()), *inputs.get("tasks", ())))
    return Forecast(
        {"measured": (*names, "own_answers")} if names else {},
        num_flops=comparison_flops([original, *students], _num_read(config, inputs)),
        peak_memory_bytes=4.0 * num_models * float(original.get("num_parameters", 0)),
    )


def _num_read(config: CompareConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> float:
    """Return the tokens that every model reads, about; 0 where a part of them is not known."""
    tasks, texts = inputs.get("tasks", ()), inputs.get("texts", ())
    num_rows = num_questions_of(tasks, config.max_rows)
    if (tasks and not num_rows) or (texts and not config.max_text_tokens):
        return 0.0
    own = config.num_own_answers * config.max_new_tokens
    return num_rows * TOKENS_PER_ROW + config.max_text_tokens * len(texts) + own


@stage("compare", version=8, forecast=_forecast)
def compare(config: CompareConfig, inputs: CompareInputs, workdir: Path) -> ComparisonArtifact:
    """Measure KL to the original, greedy agreement, loss ratio and paired retention of accuracy, each with a 95% interval.

    Retention is student accuracy / original accuracy; above chance, both minus what guessing gives. Several students share what the
    original computes, and `against` tells by how much one differs from another: on the same texts that is known far closer than either
    measure is. Models of other vocabularies are compared over the smallest, whose tokens all must know: each distribution is renormalised
    over these. Raises ValueError without data, or where the models have no names of their own.
    """
    shared = smallest_vocabulary([*(student.path for student in inputs.model), inputs.original.path])
    tokenizer = load_tokenizer(shared)
    original = _opened(config, inputs.original, shared, "original")
    data_names = unique_names((*inputs.texts, *inputs.tasks), "data")
    texts = {name: windows(config, data, tokenizer) for name, data in zip(data_names, inputs.texts, strict=False)}
    tasks = zip(data_names[len(texts) :], inputs.tasks, strict=True)
    rows = {name: question_rows(data, config.max_rows) for name, data in tasks}
    if not all(rows.values()):
        raise ValueError(f"task {next(name for name in rows if not rows[name])}: no row has a question")
    questions = [row for some in rows.values() for row in some][: config.num_own_answers]
    read = [(name, pairs, []) for name, pairs in texts.items()]
    for name, some in rows.items():
        solutions = [gold(config, row, tokenizer) for row in some if not row.choices]
        read.append((name, solutions, [row for row in some if row.choices]))
    if questions:
        read.append(("own_answers", own_answers(config, original, questions, tokenizer), []))
    measure = _Measure(config, original, len(inputs.model), tokenizer)
    for group in config.groups(len(inputs.model)):
        measure.students.clear()  # before the next are in memory
        measure.students |= {i: _opened(config, inputs.model[i], shared, measure.names[i] or "model") for i in group}
        measure.all(read)
    named = dict(zip(config.names or ("",), measure.results, strict=True)) | measure.differences()
    results = named if config.names else measure.results[0]
    (workdir / "content" / RESULT).write_text(json.dumps(results, indent=1))
    _write_texts(workdir / "content" / TEXTS, inputs, measure.texts)
    facts = {
        f"{model.replace(' ', '_')}{'_' if model else ''}{measured}_{name}{suffix}": entry[end]
        for model, figures in named.items()
        for name, some in figures.items()
        for measured, entry in some.items()
        for end, suffix in (("value", ""), ("low", LOW), ("high", HIGH))
        if math.isfinite(entry[end]) or not suffix
    }
    for name, value in facts.items():
        metric(name, value)
    return ComparisonArtifact.at(workdir / "content", facts)


def _write_texts(path: Path, inputs: CompareInputs, texts: Sequence[Mapping[str, Any]]) -> None:
    students = {model.fingerprint: sums for model, sums in zip(inputs.model, texts, strict=True)}
    path.write_text(json.dumps({"original": inputs.original.fingerprint, "students": students}))


def _opened(config: CompareConfig, model: ModelArtifact, shared: Path, who: str) -> TorchRunner:
    """Return a model that speaks over the tokens of the one in `shared`."""
    device = pick_device()
    rows = shared_rows(shared, model.path, who)
    return TorchRunner(keep_shared(load_model(model.path, pick_dtype(config.precision, device), device), rows, who))


class _Measure:
    """Students beside their original; `results` holds, a student, data set -> measure -> estimate, `sums` what those are made of."""

    def __init__(self, config: CompareConfig, original: TorchRunner, num_students: int, tokenizer: Any) -> None:
        self.config, self.original, self.tokenizer = config, original, tokenizer
        self.names = config.names or ("",)
        self.students: dict[int, TorchRunner] = {}  # those in memory, by their place in the input
        self.results: list[dict[str, dict[str, Any]]] = [{} for _ in range(num_students)]
        self.sums: list[dict[str, list[Sums]]] = [{} for _ in range(num_students)]
        self.texts: list[dict[str, dict[str, list[float]]]] = [{} for _ in range(num_students)]
        self._chosen: dict[str, list[float]] = {}  # by data set, which choices the original got right

    def all(self, read: Sequence[tuple[str, Sequence[Pair], Sequence[Row]]]) -> None:
        """Measure the students in memory on each data set: (name, texts to score, questions to choose in)."""
        for name, pairs, questions in read:
            if pairs or not questions:
                self.closeness(pairs, name)
            if questions:
                self.retention(questions, name)

    def closeness(self, pairs: Sequence[Pair], name: str) -> None:
        counter = bar(f"comparing on {name}", len(pairs), "texts")
        runners, size = [*self.students.values()], self.config.batch_size
        scored = closeness_of_each(runners, self.original, pairs, batch_size=size, on_scored=counter.advance)
        for student, texts in zip(self.students, scored, strict=True):
            sums = Sums(
                {
                    "kl_nats": [text.kl_nats for text in texts],
                    "agreement": [text.num_agreeing for text in texts],
                    "loss_nats": [text.loss_nats for text in texts],
                },
                [text.num_tokens for text in texts],
            )
            self.sums[student].setdefault(name, []).append(sums)
            self.texts[student][name] = {
                "counts": [text.num_tokens for text in texts],
                "kl_nats": [text.kl_nats for text in texts],
                "agreement": [text.num_agreeing for text in texts],
                "loss_rise_nats": [text.loss_nats - text.original_loss_nats for text in texts],
            }
            summary = sums.estimates() | {"perplexity_ratio": _perplexity_ratio(texts)}
            kl, rise = _with_interval(summary["kl_nats"]), _with_interval(summary["perplexity_ratio"])
            measured_on = f"{len(texts)} texts, {sum(sums.counts):,.0f} tokens"
            self._keep(student, name, summary, measured_on, f"KL {kl} nats a token, perplexity x{rise}")

    def _right(self, runner: TorchRunner, rows: Sequence[Row], name: str) -> list[float]:
        return right_choices(runner, rows, self.tokenizer, batch_size=4 * self.config.batch_size, name=name)

    def retention(self, rows: Sequence[Row], name: str) -> None:
        """Measure accuracy by length-normalised likelihood of the choices' texts, in pairs."""
        if name not in self._chosen:
            self._chosen[name] = self._right(self.original, rows, name)
        original_right = self._chosen[name]
        chance = [1.0 / len(row.choices) for row in rows]
        ones = [1.0] * len(rows)
        for student, runner in self.students.items():
            student_right = self._right(runner, rows, name)
            self.sums[student].setdefault(name, []).append(Sums({"accuracy": student_right}, ones))
            summary = {
                "accuracy": ratio_of_sums(student_right, ones),
                "original_accuracy": ratio_of_sums(original_right, ones),
                "retention": ratio_of_sums(student_right, original_right),
                "retention_above_chance": ratio_of_sums(
                    [a - c for a, c in zip(student_right, chance, strict=True)],
                    [b - c for b, c in zip(original_right, chance, strict=True)],
                ),
            }
            accuracy, reference, left = (
                summary["accuracy"].value,
                summary["original_accuracy"].value,
                summary["retention"],
            )
            summary_line = f"{accuracy:.1%} right, original {reference:.1%}, retention {_with_interval(left)}"
            self._keep(student, name, summary, f"{len(rows)} question{'s' * (len(rows) != 1)}", summary_line)

    def differences(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return, by `A minus B`, data set -> measure -> estimate of the difference."""
        index_of = {name: index for index, name in enumerate(self.names)}
        return {
            f"{name} minus {other}": {
                data: {
                    measure: asdict(estimate)
                    for sums, other_sums in zip(some, self.sums[index_of[other]][data], strict=True)
                    for measure, estimate in sums.minus(other_sums).items()
                }
                for data, some in self.sums[index_of[name]].items()
            }
            for name, others in self.config.against.items()
            for other in others
        }

    def _keep(self, student: int, name: str, summary: Mapping[str, Estimate], measured_on: str, line: str) -> None:
        entries = {key: {**asdict(entry), "measured_on": measured_on} for key, entry in summary.items()}
        self.results[student].setdefault(name, {}).update(entries)
        note(f"{' on '.join(part for part in (self.names[student], name) if part)} ({measured_on}): {line}")


def _with_interval(estimate: Estimate) -> str:
    """Return an estimate as text; of a single text, or question, there is no interval."""
    return f"{estimate.value:.3f} {known(estimate.low, estimate.high) if math.isfinite(estimate.low) else ''}".rstrip()


def _perplexity_ratio(texts: Sequence[TextCloseness]) -> Estimate:
    rise = ratio_of_sums(
        [text.loss_nats - text.original_loss_nats for text in texts], [text.num_tokens for text in texts]
    )
    return Estimate(math.exp(rise.value), math.exp(rise.low), math.exp(rise.high))
