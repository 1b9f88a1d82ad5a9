"""Stage `ingest_data`: bring a data set in as rows of one known shape, with a train and a held-out part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import file_digest
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.manifest import printable
from attar.stages.artifacts.dataset.answer_checks import refuse_unusable_references
from attar.stages.artifacts.dataset.partition import check_fractions, parted
from attar.stages.artifacts.dataset.rows import content_key, split_rows, write_rows
from attar.stages.artifacts.work_forecast import size_of_file
from attar.stages.contract import Forecast, NoInputs, StageConfig, stage
from attar.stages.ingest.hub_id import hub_cure
from attar.stages.ingest.records.columns import ColumnsConfig
from attar.stages.ingest.records.delimited_table import DELIMITERS, read_table, size_of_table
from attar.stages.ingest.records.docstrings import packages_digest, read_docstrings
from attar.stages.ingest.records.record_sources import (
    HUB,
    HUB_PATTERN,
    Record,
    fill_templates,
    generate_tasks,
    read_hub,
    read_jsonl,
    read_parquet,
    read_text,
)
from attar.stages.ingest.records.typed_rows import Columns, TypedRows, typed_rows
from attar.stages.runtime.older_fields import Moved, within
from attar.stages.runtime.progress import note

FORMS = {
    "jsonl": "jsonl:PATH.jsonl",
    "csv": "csv:PATH.csv",
    "tsv": "tsv:PATH.tsv",
    "parquet": "parquet:PATH.parquet",
    "text": "text:PATH.txt",
    "hub": HUB,
    "reasoning_gym": "reasoning_gym:TASK[,TASK...]",
    "template": "template:NAME[,NAME...]",
    "docstrings": "docstrings:PACKAGE[,PACKAGE...]",
}
READERS = {"jsonl": read_jsonl, "parquet": read_parquet, **dict.fromkeys(DELIMITERS, read_table)}
GENERATED = ("reasoning_gym", "template")
LOCAL = ("jsonl", "csv", "tsv", "parquet", "text")  # a file here
# Our own small data sets lie in the folder of that name beside this file.
SHIPPED = "shipped/"


class IngestDataConfig(StageConfig):
    """Where rows come from and which columns hold what."""

    source: str
    """One of: jsonl:PATH, csv:PATH, tsv:PATH, parquet:PATH, text:PATH, hub:OWNER/NAME@REVISION[:SPLIT], reasoning_gym:TASK[,TASK],
    template:NAME[,NAME], docstrings:PACKAGE[,PACKAGE] (functions of installed packages); shipped/NAME is a file of ours."""

    name: str = ""
    """Name in results and tables; empty: taken from the source, such as the file's name."""

    hub_config: str = ""
    """Configuration of a hub data set that has several, such as main."""

    columns: ColumnsConfig = ColumnsConfig()
    """Which columns hold what."""

    assistant_turns: Literal["every", "last"] = "every"
    """Which turns of the assistant become rows of their own, each with all turns before it in view."""

    blank_rows: Literal["refuse", "drop"] = "refuse"
    """What happens to a row whose question, answer or turn is null, NaN or blank; drop says how many. Blank text rows are always dropped."""

    verifier: Literal[
        "number", "choice", "contains", "exact", "pattern", "json_schema", "unit_tests", "none", "auto"
    ] = "auto"
    """How an answer is checked against the reference; under pattern, json_schema and unit_tests a row's answer is that. auto: choice
    where there are choices, else the row's own `verifier`, else none."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many rows, in their order; 0: all. For generated tasks: how many to generate, 0 refused."""

    words_a_row: int = Field(default=0, ge=0)
    """Of a text file: rows of so many words or a few more, cut at the ends of lines, so that some can be held out; 0: one row, which
    is not split."""

    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of rows that are reported and that neither training nor any choice sees, in [0, 1), chosen by a hash of the row's content."""

    choose_fraction: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of rows that choices are made on (early stop, best state, a fitted share, a teacher, merge weights), in [0, 1). null: half as
    many as are held out, at least one; 0: the held-out rows do both."""

    seed: int = 0
    """Seed of generated tasks; neighbouring seeds share no task but by chance."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **{f"{name}_field": Moved(f"columns.{name}") for name in ("question", "answer", "choices", "messages")},
        **within("columns", "answer_form"),
    }

    @field_validator("source")
    @classmethod
    def _known_form(cls, value: str) -> str:
        scheme, _, rest = value.partition(":")
        if scheme not in FORMS or not rest:
            known = ", ".join(FORMS.values())
            raise ValueError(f"source {value!r} has no known form; accepted: {known}{hub_cure(value, is_model=False)}")
        if scheme == "hub" and not re.fullmatch(HUB_PATTERN, rest):
            raise ValueError(f"source {value!r} is not of the form {FORMS['hub']}{hub_cure(value, is_model=False)}")
        if scheme in LOCAL and not _local_path(value).is_file():
            problem = "is no plain file" if _local_path(value).exists() else "does not exist"
            raise ValueError(f"{_local_path(value)} {problem}; accepted: {FORMS[scheme]} with the path of a file")
        return value

    @model_validator(mode="after")
    def _words_of_text(self) -> IngestDataConfig:
        if self.words_a_row and not self.source.startswith("text:"):
            raise ValueError(f"words_a_row is {self.words_a_row}, but only text:PATH is cut into rows; accepted: 0")
        check_fractions(self.heldout_fraction, self.choose_fraction)
        return self


def _forecast(config: IngestDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.source.partition(":")[0] in GENERATED and config.max_rows == 0:
        raise ValueError("max_rows is 0: say how many tasks to generate")
    num_rows, num_bytes = config.max_rows, 0.0
    scheme = config.source.partition(":")[0]
    if scheme == "jsonl":
        num_rows, num_bytes = size_of_file(_local_path(config.source), config.max_rows)
    elif scheme in DELIMITERS:
        num_rows, num_bytes = size_of_table(_local_path(config.source), config.source, config.max_rows)
    name = config.name or _name_of(config.source)
    return Forecast({"name": name} | ({"num_rows": num_rows} if num_rows else {}), disk_bytes=num_bytes)


def _outside(config: IngestDataConfig) -> str:
    scheme, _, rest = config.source.partition(":")
    if scheme == "docstrings":
        return packages_digest(rest)
    return file_digest(_local_path(config.source)) if scheme in LOCAL else ""


@stage("ingest_data", version=4, forecast=_forecast, outside=_outside, is_light=True)
def ingest_data(config: IngestDataConfig, inputs: NoInputs, workdir: Path) -> DatasetArtifact:
    """Bring a data set in as checkable questions and answers, or as the turns of conversations.

    Raises ValueError, naming file and row, for a row that lacks a named column, holds no text where text is wanted, a span that is not
    verbatim in its text, or an answer that names no choice or is ambiguous; and when nothing is left.
    """
    typed = typed_rows(_records(config), _columns(config))
    if not typed.rows:
        raise ValueError(f"{config.source} gave no rows{_skipped(typed)}")
    if left_out := _skipped(typed):
        note(f"warning: {config.source}{left_out}")
    for what, names in (("keys of turns", typed.unread), ("columns", typed.unread_columns)):
        if names:
            note(f"{what} that are not read: {', '.join(sorted(map(printable, names)))}"[:200])
    num_open = sum(bool(row.question) and not row.choices and not row.messages for row in typed.rows)
    if num_open and any(row.choices for row in typed.rows):
        note(f"{num_open} of {len(typed.rows)} rows have no choices: they are open questions")
    keys = [content_key(row) for row in typed.rows]
    rows = parted(typed.rows, keys, heldout_fraction=config.heldout_fraction, choose_fraction=config.choose_fraction)
    refuse_unusable_references(rows, config.source)
    write_rows(workdir / "content" / "rows.jsonl", rows)
    facts = DatasetFacts(
        name=config.name or _name_of(config.source),
        num_rows=len(rows),
        num_heldout=len(split_rows(rows, "heldout")),
        num_choose=len(split_rows(rows, "choose")),
        source=config.source,
        has_own_ids=bool(config.columns.row_id) or None,
    )
    return DatasetArtifact.at(workdir / "content", facts)


def _records(config: IngestDataConfig) -> Iterator[Record]:
    scheme, _, rest = config.source.partition(":")
    if scheme in READERS:
        return READERS[scheme](_local_path(config.source), config.source)
    if scheme == "text":
        return read_text(_local_path(config.source), config.source, config.words_a_row)
    if scheme == "hub":
        return read_hub(rest, config.source, config.hub_config)
    if scheme == "docstrings":
        return read_docstrings(rest, config.source, config.columns.question, config.columns.answer)
    names = {"question_field": config.columns.question, "answer_field": config.columns.answer}
    generate = generate_tasks if scheme == "reasoning_gym" else fill_templates
    return generate(rest, config.source, num_rows=config.max_rows, seed=config.seed, **names)


def _columns(config: IngestDataConfig) -> Columns:
    return Columns(
        **config.columns.model_dump(),
        assistant_turns=config.assistant_turns,
        blank_rows=config.blank_rows,
        max_rows=config.max_rows,
        verifier=config.verifier,
    )


def _skipped(typed: TypedRows) -> str:
    """Say how many rows were left out, and why."""
    reasons = (
        (typed.num_blank_texts, "blank text rows left out"),
        (typed.num_dropped, "rows with a blank cell dropped"),
    )
    return "".join(f"; {count} {reason}" for count, reason in reasons if count)


def _name_of(source: str) -> str:
    scheme, _, rest = source.partition(":")
    if scheme in (*GENERATED, "docstrings"):
        return rest.replace(",", "_")[:60]
    return Path(rest.partition("@")[0]).stem


def _local_path(source: str) -> Path:
    rest = source.partition(":")[2]
    if rest.startswith(SHIPPED) and ".." not in Path(rest).parts:
        return Path(__file__).parent / "shipped" / rest.removeprefix(SHIPPED)
    return confined(Path(rest).expanduser())
