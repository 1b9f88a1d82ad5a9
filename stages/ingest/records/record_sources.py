"""Read records from files of lines, tables, text, the hub and generated tasks. Each record says where it stands."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from attar.compressors.catalogue import did_you_mean
from attar.compressors.data.templates import TEMPLATES
from attar.stages.artifacts.dataset.cells import json_of
from attar.stages.ingest.hub_id import asked_of_hub

# (where it stands, for a refusal; what it is)
Record = tuple[str, dict[str, Any]]
HUB = "hub:OWNER/NAME@REVISION[:SPLIT]"
HUB_PATTERN = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)@(?P<revision>[\w.-]+(?:/[\w.-]+)*)(?::(?P<split>\w+))?"
BOM = b"\xef\xbb\xbf"
PARQUET_ROWS = 1024


def read_jsonl(path: Path, source: str) -> Iterator[Record]:
    """Yield the object of each line; blank lines, a byte order mark and CRLF are taken. Raises ValueError naming the line."""
    with path.open("rb") as stream:
        index = 0
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(BOM) if number == 1 else raw
            if line.strip():
                yield f"{source} line {number}: row {index}", _object(line, f"{source} line {number}")
                index += 1


def read_parquet(path: Path, source: str) -> Iterator[Record]:
    """Yield the rows of a table. Raises ValueError for what is no Parquet file, is damaged inside, or has two columns of one name."""
    import pyarrow  # comes with the data extra
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{source} is no Parquet file: {_one_line(error)}") from error
    names = Counter(table.schema_arrow.names)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{source} has two columns {twice[0]!r}; accepted: each name once")
    index, batches = 0, table.iter_batches(batch_size=PARQUET_ROWS)
    while True:
        try:  # a file may be whole at its end, which is read first, and damaged before it
            batch = next(batches, None)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{source} is damaged from row {index} on: {_one_line(error)}") from error
        if batch is None:
            return
        try:
            records = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source} rows {index} to {index + batch.num_rows - 1}: text that is not UTF-8"
            ) from error
        for record in records:
            yield f"{source} row {index}", record
            index += 1


def read_text(path: Path, source: str, words_a_row: int) -> Iterator[Record]:
    """Yield a text whole, or in rows of so many words. Rows are cut at the ends of lines, a few words later."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 at byte {error.start}; accepted: text in UTF-8") from error
    if not words_a_row:
        yield f"{source} row 0", {"text": text}
        return
    lines: list[str] = []
    num_words = index = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        num_words += len(line.split())
        if num_words >= words_a_row:
            yield f"{source} row {index}", {"text": "".join(lines)}
            lines, num_words, index = [], 0, index + 1
    if num_words:
        yield f"{source} row {index}", {"text": "".join(lines)}


def read_hub(rest: str, source: str, hub_config: str) -> Iterator[Record]:
    """Yield the rows of one split of a hub data set at a fixed revision."""
    import datasets  # comes with the data extra

    match = re.fullmatch(HUB_PATTERN, rest)
    assert match is not None, "the config refuses other forms"
    if Path(match["repo"]).exists():  # `datasets` would read it in place of the hub's, past every check of paths
        raise ValueError(
            f"source {source!r}: {match['repo']} is also a folder here; name its files (jsonl:PATH, parquet:PATH)"
        )
    split = match["split"] or "train"
    options = {"revision": match["revision"], "split": split}
    with asked_of_hub(source):
        rows = datasets.load_dataset(match["repo"], hub_config or None, trust_remote_code=False, **options)  # type: ignore[misc]
    for index, record in enumerate(rows):
        yield f"{source} row {index}", dict(record)  # type: ignore[call-overload]


def generate_tasks(
    rest: str, source: str, *, num_rows: int, seed: int, question_field: str, answer_field: str
) -> Iterator[Record]:
    """Generate checkable tasks; several kinds are interleaved so that any prefix holds all of them."""
    import reasoning_gym  # comes with the data extra

    names = rest.split(",")
    known = reasoning_gym.factory.DATASETS
    for name in names:
        if name not in known:
            raise ValueError(f"reasoning-gym has no task {name!r}.{did_you_mean(name, known)}")
    size = -(-num_rows // len(names))
    tasks = [
        reasoning_gym.create_dataset(name, seed=task_seed(seed, name, names[:index].count(name)), size=size)
        for index, name in enumerate(names)
    ]
    for index in range(size):
        for task_index, task in enumerate(tasks):
            entry = task[index]
            is_number = re.fullmatch(r"[-+]?\d+(\.\d+)?(/\d+)?", str(entry["answer"])) is not None
            yield (
                f"{source} row {index * len(tasks) + task_index}",
                {
                    question_field: entry["question"],
                    answer_field: str(entry["answer"]),
                    "verifier": "number" if is_number else "contains",
                },
            )


def fill_templates(
    rest: str, source: str, *, num_rows: int, seed: int, question_field: str, answer_field: str
) -> Iterator[Record]:
    """Generate tasks from templates of ours, in turn. Raises ValueError for an unknown template, or one with too few questions."""
    names = rest.split(",")
    for name in names:
        if name not in TEMPLATES:
            raise ValueError(f"source {source!r}: there is no template {name!r}.{did_you_mean(name, TEMPLATES)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"source {source!r} names {twice[0]!r} twice; accepted: each template once")
    sources = [TEMPLATES[name].tasks(Random(task_seed(seed, name, 0))) for name in names]
    for index in range(num_rows):
        which = index % len(names)
        try:
            task = next(sources[which])
        except ValueError as error:
            raise ValueError(f"source {source!r}, max_rows {num_rows}: of {names[which]!r}, {error}") from None
        yield (
            f"{source} row {index}",
            {question_field: task.question, answer_field: task.answer, "verifier": task.verifier},
        )


def task_seed(seed: int, name: str, repeat: int) -> int:
    """Return the seed of one generated set: far from that of its neighbours.

    reasoning-gym draws item i with seed + i, so the sets of seeds 0 and 1 would share all items but one.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}:{repeat}".encode()).digest()[:4]) >> 1


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json_of(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 at byte {error.start}; accepted: text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg}") from error
    except ValueError as error:  # a name twice, too deep, a number of thousands of digits
        raise ValueError(f"{where} is not JSON that can be read: {_one_line(error)}") from error
    if not isinstance(record, dict):
        kind = {list: "a list", str: "text", type(None): "null", bool: "a boolean"}.get(type(record), "a number")
        raise ValueError(f'{where} is {kind}; accepted: one object a line, such as {{"question": ..., "answer": ...}}')
    return record


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
