"""Stage `ingest_data`: bring a data set in as rows of one known shape, with a train and a held-out part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from compressors.catalogue import did_you_mean
from registry.artifact import DatasetArtifact, Facts
from registry.confinement import confined
from registry.fingerprint import file_digest
from stages.answer_checks import ANSWER_CHECKS, refuse_unusable_references
from stages.contract import Forecast, NoInputs, StageConfig, stage
from stages.rows import Row, write_rows

FORMS = {
    "jsonl": "jsonl:PATH.jsonl",
    "parquet": "parquet:PATH.parquet",
    "text": "text:PATH.txt",
    "hub": "hub:OWNER/NAME@REVISION[:SPLIT]",
    "reasoning_gym": "reasoning_gym:TASK[,TASK...]",
}
# Our own small data sets lie in the folder of that name beside this file.
SHIPPED = "shipped/"


class IngestDataConfig(StageConfig):
    """Where rows come from and which columns hold what."""

    source: str
    """One of: jsonl:PATH, parquet:PATH, text:PATH, hub:OWNER/NAME@REVISION[:SPLIT], reasoning_gym:TASK[,TASK]; shipped/NAME is a file of ours."""

    name: str = ""
    """Name in results and tables; empty: taken from the source, such as the file's name."""

    hub_config: str = ""
    """Configuration of a hub data set that has several, such as main."""

    question_field: str = "question"
    """Column with the question or instruction."""

    answer_field: str = "answer"
    """Column with the reference answer: text, or for multiple choice the index or the text of the right choice."""

    choices_field: str = "choices"
    """Column with the list of choices; rows without it are open questions."""

    verifier: Literal["number", "choice", "contains", "pattern", "json_schema", "unit_tests", "none", "auto"] = "auto"
    """How an answer is checked against the reference; under pattern, json_schema and unit_tests a row's answer is that. auto: choice
    where there are choices, else the row's own `verifier`, else none."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many rows, in their order; 0: all. For generated tasks: how many to generate, 0 refused."""

    words_a_row: int = Field(default=0, ge=0)
    """Of a text file: rows of so many words or a few more, cut at the ends of lines, so that some can be held out; 0: one row, which
    is not split."""

    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of rows that training never sees, in [0, 1), chosen by a hash of the row's content."""

    seed: int = 0
    """Seed of generated tasks."""

    @field_validator("source")
    @classmethod
    def _known_form(cls, value: str) -> str:
        scheme, _, rest = value.partition(":")
        if scheme not in FORMS or not rest:
            raise ValueError(f"source {value!r} has no known form; accepted: {', '.join(FORMS.values())}")
        if scheme in ("jsonl", "parquet", "text") and not _local_path(value).exists():
            raise ValueError(f"{_local_path(value)} does not exist; accepted: {FORMS[scheme]} with a path that does")
        return value

    @model_validator(mode="after")
    def _words_of_text(self) -> IngestDataConfig:
        if self.words_a_row and not self.source.startswith("text:"):
            raise ValueError(f"words_a_row is {self.words_a_row}, but only text:PATH is cut into rows; accepted: 0")
        return self


def _forecast(config: IngestDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.source.startswith("reasoning_gym:") and config.max_rows == 0:
        raise ValueError("max_rows is 0: say how many tasks to generate")
    return Forecast({"num_rows": config.max_rows} if config.max_rows else {})


def _outside(config: IngestDataConfig) -> str:
    is_local = config.source.partition(":")[0] in ("jsonl", "parquet", "text")
    return file_digest(_local_path(config.source)) if is_local else ""


@stage("ingest_data", version=1, forecast=_forecast, outside=_outside, is_light=True)
def ingest_data(config: IngestDataConfig, inputs: NoInputs, workdir: Path) -> DatasetArtifact:
    """Bring a data set in as rows with a question, an answer and a way to check it.

    Raises ValueError when a row lacks a named column, when an answer is not among its choices, or when nothing is left.
    """
    scheme, _, rest = config.source.partition(":")
    rows = []
    for index, record in enumerate(READERS[scheme](config, rest)):
        if config.max_rows and index >= config.max_rows:
            break
        rows.append(_to_row(config, record, index))
    if not rows:
        raise ValueError(f"{config.source} gave no rows")
    rows = _split(rows, config.heldout_fraction)
    write_rows(workdir / "content" / "rows.jsonl", rows)
    refuse_unusable_references(rows, config.source)
    num_heldout = sum(row.split == "heldout" for row in rows)
    return DatasetArtifact.at(
        workdir / "content",
        name=config.name or _name_of(config.source),
        num_rows=len(rows),
        num_heldout=num_heldout,
        source=config.source,
    )


def _to_row(config: IngestDataConfig, record: Mapping[str, Any], index: int) -> Row:
    if "text" in record and config.question_field not in record:
        return Row(id=f"{index:06d}", text=record["text"])
    for name in (config.question_field, config.answer_field):
        if name not in record:
            raise ValueError(f"row {index} has no column {name!r}.{did_you_mean(name, record)}")
    question, answer = str(record[config.question_field]), record[config.answer_field]
    choices = [str(choice) for choice in record.get(config.choices_field) or []]
    if not choices:
        verifier = record.get("verifier", "none") if config.verifier == "auto" else config.verifier
        if verifier not in ANSWER_CHECKS:
            raise ValueError(f"row {index}: verifier {verifier!r} is unknown.{did_you_mean(verifier, ANSWER_CHECKS)}")
        return Row(id=f"{index:06d}", question=question, answer=str(answer), verifier=verifier)
    answer_index = _choice_index(answer, choices)
    if answer_index is None:
        raise ValueError(f"row {index}: answer {answer!r} is not one of its choices {choices}")
    verifier = "choice" if config.verifier == "auto" else config.verifier
    return Row(
        id=f"{index:06d}",
        question=question,
        answer=choices[answer_index],
        choices=choices,
        answer_index=answer_index,
        verifier=verifier,
    )


def _choice_index(answer: Any, choices: list[str]) -> int | None:
    if isinstance(answer, int) or (isinstance(answer, str) and answer.isdigit() and answer not in choices):
        return int(answer) if 0 <= int(answer) < len(choices) else None
    if answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and re.fullmatch("[A-Z]", answer) and ord(answer) - ord("A") < len(choices):
        return ord(answer) - ord("A")
    return None


def _split(rows: list[Row], heldout_fraction: float) -> list[Row]:
    """Hold out the rows with the smallest content hash: the same row falls on the same side however many others there are."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{row.question}{row.text}".encode()).digest())
    heldout = {row.id for row in ranked[: round(len(rows) * heldout_fraction)]}
    return [row.with_changes(split="heldout" if row.id in heldout else "train") for row in rows]


def _name_of(source: str) -> str:
    scheme, _, rest = source.partition(":")
    if scheme == "reasoning_gym":
        return rest.replace(",", "_")[:60]
    return Path(rest.partition("@")[0]).stem


def _local_path(source: str) -> Path:
    rest = source.partition(":")[2]
    if rest.startswith(SHIPPED) and ".." not in Path(rest).parts:
        return Path(__file__).parent / "shipped" / rest.removeprefix(SHIPPED)
    return confined(Path(rest).expanduser())


def _read_jsonl(config: IngestDataConfig, rest: str) -> Iterator[dict[str, Any]]:
    with _local_path(config.source).open() as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{config.source} line {number} is not JSON: {error.msg}") from error


def _read_parquet(config: IngestDataConfig, rest: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet  # comes with the data extra

    yield from pyarrow.parquet.read_table(_local_path(config.source)).to_pylist()


def _read_text(config: IngestDataConfig, rest: str) -> Iterator[dict[str, Any]]:
    text = _local_path(config.source).read_text()
    if not config.words_a_row:
        yield {"text": text}
        return
    lines: list[str] = []
    num_words = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        num_words += len(line.split())
        if num_words >= config.words_a_row:
            yield {"text": "".join(lines)}
            lines, num_words = [], 0
    if num_words:
        yield {"text": "".join(lines)}


def _read_hub(config: IngestDataConfig, rest: str) -> Iterator[dict[str, Any]]:
    import datasets  # comes with the data extra

    match = re.fullmatch(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)(?::(?P<split>\w+))?", rest)
    if match is None:
        raise ValueError(f"source {config.source!r} is not of the form {FORMS['hub']}")
    split = match["split"] or "train"
    options = {"revision": match["revision"], "split": split}
    yield from datasets.load_dataset(match["repo"], config.hub_config or None, trust_remote_code=False, **options)  # type: ignore[misc]


def _generate_tasks(config: IngestDataConfig, rest: str) -> Iterator[dict[str, Any]]:
    """Generate checkable tasks; several kinds are interleaved so that any prefix holds all of them."""
    import reasoning_gym  # comes with the data extra

    names = rest.split(",")
    known = reasoning_gym.factory.DATASETS
    for name in names:
        if name not in known:
            raise ValueError(f"reasoning-gym has no task {name!r}.{did_you_mean(name, known)}")
    size = -(-config.max_rows // len(names))
    tasks = [
        reasoning_gym.create_dataset(name, seed=config.seed + index, size=size) for index, name in enumerate(names)
    ]
    for index in range(size):
        for task in tasks:
            entry = task[index]
            is_number = re.fullmatch(r"[-+]?\d+(\.\d+)?(/\d+)?", str(entry["answer"])) is not None
            yield {
                config.question_field: entry["question"],
                config.answer_field: entry["answer"],
                "verifier": "number" if is_number else "contains",
            }


READERS: dict[str, Callable[[IngestDataConfig, str], Iterator[dict[str, Any]]]] = {
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_text,
    "hub": _read_hub,
    "reasoning_gym": _generate_tasks,
}
