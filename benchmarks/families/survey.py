"""Which families can be cut, repaired and exported: python benchmarks/families/survey.py

Builds a tiny random model of every family in transformers' mapping for causal language models and asks four things of it, in a
process of its own, so that a crash is a cell too. Writes benchmarks/results/families.json after each family; a run over some families
or columns replaces their cells alone.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.append(str(Path(__file__).parents[2]))  # where all benchmarks lie
from benchmarks.families.columns import COLUMNS
from benchmarks.families.sizes import family_config
from benchmarks.result_file import RESULTS, write_result

MAX_PARAMETERS = 5_000_000
MAX_SECONDS = 120
FILE = RESULTS / "families.json"
# Cells that say that the thing works, whole or in part.
WORKS = ("ok", "last blocks alone:", "channels:", "KV groups:", "linear:", "refit:")
# Asked first, and shown by name in the README.
WELL_KNOWN = (
    "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "granite", "smollm3", "olmo2", "qwen3_moe", "mixtral",
    "gpt_oss", "deepseek_v3", "glm4_moe", "olmoe", "qwen3_next", "lfm2", "granitemoehybrid", "falcon_h1", "nemotron_h", "gemma3n_text",
    "gemma4_text", "gpt2", "gpt_neox",
)  # fmt: skip
# Asked next; after these whatever the mapping has.
ALSO_USED = (
    "gemma", "phi", "olmo", "olmo3", "cohere", "cohere2", "starcoder2", "stablelm", "glm", "glm4", "exaone4", "seed_oss", "apertus",
    "arcee", "helium", "hunyuan_v1_dense", "nemotron", "ministral", "ministral3", "bitnet", "qwen2_moe", "granitemoe",
    "granitemoeshared", "deepseek_v2", "ernie4_5", "opt", "ernie4_5_moe", "phimoe", "dots1", "lfm2_moe", "qwen3_5_text", "jamba", "bamba", "zamba2",
    "recurrent_gemma", "mamba", "mamba2", "falcon_mamba", "minimax", "gptj", "gpt_neo", "falcon", "bloom", "mpt",
)  # fmt: skip


def build_family(family: str) -> Any:
    """Return a tiny random model, the same one each time. Raises ValueError for a family of which none can be built."""
    try:
        config = family_config(family)
        if config is None:
            raise ValueError("its config holds a text config: see the family of its language tower")
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise ValueError(f"no tiny model: {_one_line(error)}") from error
    size = sum(parameter.numel() for parameter in skeleton.parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"no tiny model: its smallest has {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(family_config(family), dtype=torch.float32).eval()


def cell(family: str, column: str, folder: Path) -> str:
    """Return what one family says to one question, a line."""
    try:
        return COLUMNS[column](lambda: build_family(family), folder)
    except ValueError as refusal:
        return f"no: {_one_line(refusal)}"
    except Exception as error:  # noqa: BLE001 - a fault of ours is a cell too
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"FAULT: {type(error).__name__} in {Path(where.filename).name}: {_one_line(error)}"


def works(text: str) -> bool:
    """Say whether a cell tells of a thing that works."""
    return text.startswith(WORKS)


def is_whole(cells: dict[str, str], column: str) -> bool:
    """Say whether all of a question works for a family; `all four` is every question."""
    return all(cells.get(name) == "ok" for name in ([column] if column in COLUMNS else COLUMNS))


def mark(text: str | None) -> str:
    """Return a cell in a word."""
    if text is None:
        return "not asked"
    return "yes" if text == "ok" else "in part" if works(text) else "no"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _answer(family: str, columns: Sequence[str], connection: Connection) -> None:
    """Send (column, cell) for each question."""
    with tempfile.TemporaryDirectory() as folder:
        for column in columns:
            connection.send((column, cell(family, column, Path(folder) / column)))


def ask(family: str, columns: Sequence[str]) -> dict[str, str]:
    """Return the cells of one family from a process of its own; it may crash or hang."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(family, columns, sender))
    process.start()
    sender.close()
    cells = dict.fromkeys(columns, "FAULT: the process died")
    try:
        for _ in columns:
            if not receiver.poll(MAX_SECONDS):
                cells |= {
                    column: f"FAULT: no answer in {MAX_SECONDS} s" for column, text in cells.items() if "died" in text
                }
                break
            column, text = receiver.recv()
            cells[column] = text
    except EOFError:
        pass
    process.kill()
    process.join()
    return cells


def read_cells() -> dict[str, dict[str, str]]:
    """Return what the file says: cells by family and column."""
    if not FILE.exists():
        return {}
    table = next(table for table in json.loads(FILE.read_text())["tables"] if table["title"] == "Cells")
    return {row[0]: dict(zip(table["columns"][1:], row[1:], strict=True)) for row in table["rows"]}


def write_cells(cells: dict[str, dict[str, str]]) -> None:
    """Write all cells, and how many families each column has."""
    ordered = [family for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if family in cells]
    green = {column: [family for family in ordered if works(cells[family].get(column, ""))] for column in COLUMNS}
    green["all four"] = [family for family in ordered if all(family in green[column] for column in COLUMNS)]
    counts = [
        [column, str(len(families)), str(sum(is_whole(cells[name], column) for name in families))]
        for column, families in green.items()
    ]
    rows = [[family, *(cells[family].get(column, "not asked") for column in COLUMNS)] for family in ordered]
    known = [
        [family, *(mark(cells[family].get(column)) for column in COLUMNS)] for family in WELL_KNOWN if family in cells
    ]
    tables = [
        {"title": "Counts", "columns": ["what works", "families", "of these wholly"], "rows": counts},
        {"title": "Well known", "columns": ["family", *COLUMNS], "rows": known},
        {"title": "Cells", "columns": ["family", *COLUMNS], "rows": rows},
    ]
    num_all = len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    line = f"{len(ordered)} of {num_all} families of the mapping were asked; part of a question may work: the cell names what does not."
    write_result("families", tables, [line])


def main(
    families: Annotated[list[str] | None, typer.Argument(help="Families to ask; all where none is named.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Questions to ask; all where none is named.")] = None,
    unanswered: Annotated[bool, typer.Option(help="Only cells that are not in the file.")] = False,
    minutes: Annotated[float, typer.Option(help="Ask no further family after these.")] = float("inf"),
) -> None:
    """Ask, the most used families first, and write after each."""
    torch.set_num_threads(1)
    cells, end = read_cells(), time.monotonic() + 60 * minutes
    every = dict.fromkeys((*WELL_KNOWN, *ALSO_USED, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    for family in families or every:
        if time.monotonic() > end:
            break
        columns = [name for name in column or COLUMNS if not (unanswered and name in cells.get(family, {}))]
        if columns:
            cells[family] = cells.get(family, {}) | ask(family, columns)
            write_cells(cells)
            print(family, *(f"{name}: {cells[family][name][:110]}" for name in columns), sep="\n  ", flush=True)


if __name__ == "__main__":
    typer.run(main)
