"""The data card: what a data set holds, who wrote it, what was left out and why. For people as Markdown, for programs as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attar.compressors.data.keep import reason_kind
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import DATA_CARD
from attar.stages.artifacts.dataset.curation import Dropped
from attar.stages.artifacts.dataset.original_losses import Losses
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.runtime.progress import metric

DROPPED = "dropped.jsonl"
NUM_EXAMPLES = 3
MAX_CHARACTERS = 400
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def write_card(
    content: Path, rows: Sequence[Row], *, name: str, dropped: Sequence[Dropped] = (), losses: Losses | None = None
) -> None:
    """Write `records/data_card.md`, `.json` and, with dropped rows, `dropped.jsonl` into a data set's folder.

    They are evidence, not content: two data sets with the same rows are the same whatever was left out on the way.
    """
    records = content / RECORDS_FOLDER
    records.mkdir(parents=True, exist_ok=True)
    card = describe(rows, name=name, dropped=dropped, losses=losses)
    if losses is not None:
        for kind, value in (("rewritten", losses.rewritten_nats), ("reference", losses.reference_nats)):
            if value is not None:
                metric(f"{'recorded' if losses.is_recorded else 'original'}_loss_{kind}_nats", value)
    (records / f"{DATA_CARD}.json").write_text(json.dumps(card, indent=1, ensure_ascii=False))
    (records / f"{DATA_CARD}.md").write_text(as_markdown(card))
    if dropped:
        with (records / DROPPED).open("w") as stream:
            for drop in dropped:
                line = {
                    "id": drop.row.id,
                    "split": drop.row.split,
                    "kind": reason_kind(drop.reason),
                    "reason": drop.reason,
                }
                line |= {part: getattr(drop.row, part) for part in ("question", "answer", "text")}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def describe(
    rows: Sequence[Row], *, name: str, dropped: Sequence[Dropped] = (), losses: Losses | None = None
) -> dict[str, Any]:
    """Return the card's numbers and examples as plain JSON values."""
    rows_with_reasons = [(provenance(row), row, row.reason) for row in rows]
    left_out = [(reason_kind(drop.reason), drop.row, drop.reason) for drop in dropped]
    card: dict[str, Any] = {
        "name": name,
        "num_rows": len(rows),
        "num_train": sum(row.split == "train" for row in rows),
        "num_choose": sum(row.split == "choose" for row in rows),
        "num_heldout": sum(row.split == "heldout" for row in rows),
        "provenance": dict(Counter(kind for kind, _, _ in rows_with_reasons).most_common()),
        "dropped": dict(Counter(kind for kind, _, _ in left_out).most_common()),
        "lengths": _lengths(rows),
        "loss_under_original": None if losses is None else asdict(losses),
        "examples": {"kept": _examples(rows_with_reasons), "dropped": _examples(left_out)},
    }
    rates = [row.pass_rate for row in rows if row.pass_rate is not None]
    if rates:
        card["pass_rate"] = {"mean": float(np.mean(rates)), **_percentiles(rates)}
    return card


def provenance(row: Row) -> str:
    """Return where a row's answer comes from. `rewritten`, `kept: wrong answer`, `free text`, or `reference` when none was asked to write it."""
    return reason_kind(row.reason) or ("text" if row.text else "reference")


def as_markdown(card: dict[str, Any]) -> str:
    """Return the card as a page of Markdown."""
    lines = [f"# Data card: {card['name']}", ""]
    lines += [
        f"{card['num_rows']} rows: {card['num_train']} to train on, {card['num_choose']} to choose by, {card['num_heldout']} held out.",
        "",
    ]
    lines += _table("Where answers come from", ("provenance", "rows"), card["provenance"].items())
    lines += _table("Left out", ("reason", "rows"), card["dropped"].items())
    heads = tuple(f"{percent} %" for percent in PERCENTILES)
    lengths = [(what, *values.values()) for what, values in card["lengths"].items()]
    lines += _table("Lengths, by percentile", ("what", *heads), lengths)
    if "pass_rate" in card:
        lines += _table("Pass rate", ("mean", *heads), [[f"{value:.2f}" for value in card["pass_rate"].values()]])
    loss = card["loss_under_original"]
    if loss is not None:
        loss_rows = [
            (kind, "-" if loss[f"{kind}_nats"] is None else f"{loss[f'{kind}_nats']:.3f}", loss[f"num_{kind}"])
            for kind in ("rewritten", "reference")
        ]
        lines += _table(f"Loss under the original ({loss['source']})", ("answers", "nats/token", "rows"), loss_rows)
    for part, kinds in card["examples"].items():
        for kind, examples in kinds.items():
            lines += [f"## Examples {'that stayed' if part == 'kept' else 'left out'}: {kind}", ""]
            lines += [line for example in examples for line in _example_lines(example)]
    return "\n".join(lines).rstrip() + "\n"


def _lengths(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    measured = {
        "question characters": [len(row.question) for row in rows if row.question],
        "answer characters": [len(row.answer or row.text) for row in rows],
        "answer tokens": [len(row.answer_ids) for row in rows if row.answer_ids],
    }
    return {what: _percentiles(values) for what, values in measured.items() if values}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    # an observed value, not a blend of two
    values_at = np.percentile(values, PERCENTILES, method="nearest")
    return {f"p{percent}": value.item() for percent, value in zip(PERCENTILES, values_at, strict=True)}


def _examples(rows_with_reasons: Sequence[tuple[str, Row, str]]) -> dict[str, list[dict[str, str]]]:
    examples: dict[str, list[dict[str, str]]] = {}
    for kind, row, reason in rows_with_reasons:
        shown = examples.setdefault(kind, [])
        if len(shown) < NUM_EXAMPLES:
            parts = {"question": row.question, "answer": row.answer, "text": row.text, "rewrite": row.rewrite}
            if row.source == "rewrite":
                parts = parts | {"rewrite": "", "reference": row.reference}
            shown.append({"id": row.id, "reason": reason, **{part: _cut(text) for part, text in parts.items() if text}})
    return examples


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ..."


def _example_lines(example: dict[str, str]) -> list[str]:
    lines = [f"`{example['id']}` {example['reason']}", ""]
    for part in ("question", "answer", "text", "rewrite", "reference"):
        if part in example:
            # indented text is shown as it is, whatever marks it holds
            lines += [f"{part}:", "", *(f"    {line}" for line in example[part].splitlines()), ""]
    return lines


def _table(title: str, heads: Sequence[str], rows: Any) -> list[str]:
    body = [f"| {' | '.join(str(value) for value in row)} |" for row in rows]
    if not body:
        return []
    return [f"## {title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *body, ""]
