"""What a small tagger learns of a larger one's labels: adverse drug events, a half-depth student, texts that nobody labelled.

python benchmarks/quality/tagger.py HOME TRAIN.jsonl TEST.jsonl [--gold=800] [--texts=1600] [--tests=500] [--seed=0]

TRAIN and TEST: text, relations with drug_span and effect_span in characters (ADE-Corpus-V2); texts whose spans overlap are left out. The teacher,
six blocks, learns the spans of GOLD texts; `label_spans` has it label TEXTS others. Arms, students of three blocks by the same steps a text: the
gold texts; the teacher's labels; its distributions (no labels); its labels with every span moved to other words of its text, as many words long (the
control). Span F1 against gold on TESTS texts. HOME keeps what was made.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from attar.compressors.data.spans import Span, tags_for, tags_of, word_locations
from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.dataset.rows import read_rows

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from stage_bench import MINILM, StageBench

KINDS = ["Drug", "Effect"]
TRAINING: dict[str, Any] = {"adapt": {"kind": "full"}, "rows": {"max_tokens": 64}, "heldout": {"every": 1000}}
BY_LABELS, BY_TEACHER = {"labels": 1.0}, {"forward_kl": 1.0}
FIGURES = ("span_f1", "span_precision", "span_recall")
COLUMNS = ("model", "learns", "texts", "span F1", "precision", "recall")


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, train, test = (Path(word) for word in sys.argv[1:] if not word.startswith("--"))
    seed, counts = (
        int(options.get("seed", 0)),
        [int(options.get(name, n)) for name, n in (("gold", 800), ("texts", 1600))],
    )
    configure_process()
    bench = StageBench(home)
    rows = records_of(train)
    random.Random(seed).shuffle(rows)
    gold = data_of(bench, "gold", rows[: counts[0]])
    others = data_of(bench, "others", [{"text": row["text"]} for row in rows[counts[0] : sum(counts)]])
    tested = data_of(bench, "test", records_of(test)[: int(options.get("tests", 500))])
    teacher = bench.folded(tagger(bench, seed), gold, config_of(BY_LABELS, 3, 1e-4, seed))
    labelled = bench.run("label_spans", {"precision": "float32"}, model=teacher, data=others)
    moved = data_of(
        bench,
        "moved",
        [elsewhere(row.question, row.spans or [], seed) for row in read_rows(labelled.path / "rows.jsonl")],
    )
    student = bench.run("prune", {"blocks": [1, 3, 5]}, model=tagger(bench, 100 + seed))
    short, run_once = (2, 2e-4, seed), {"teacher": {"kind": "input", "run_once": True}}
    # the gold texts are fewer: more passes, so that all arms take about as many steps
    passes = round(short[0] * counts[1] / counts[0])
    arms = {
        "spans of people": (gold, config_of(BY_LABELS, passes, *short[1:]), None),
        "the teacher's labels": (labelled, config_of(BY_LABELS, *short), None),
        "the teacher's distributions": (others, config_of(BY_TEACHER, *short) | run_once, teacher),
        "labels moved elsewhere": (moved, config_of(BY_LABELS, *short), None),
    }
    table = [line("teacher, 6 blocks", "spans of people", gold, bench.measured(teacher, tested))]
    for name, (data, config, source) in arms.items():
        made = bench.folded(student, data, config, source)
        table.append(line("student, 3 blocks", name, data, bench.measured(made, tested)))
        print(table[-1], file=sys.stderr, flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", *table, sep="\n")


def tagger(bench: StageBench, seed: int) -> Any:
    """Return the encoder under a fresh head over tags."""
    model = {"kind": "tagger", "labels": KINDS, "seed": seed, "max_tokens": 128}
    return bench.run("ingest_model", {"source": MINILM, "model": model})


def config_of(objectives: dict[str, float], num_epochs: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """Return a training's config."""
    schedule = {"num_epochs": num_epochs, "learning_rate": learning_rate, "tokens_per_step": 512, "seed": seed}
    return {**TRAINING, "objectives": objectives, "schedule": schedule}


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return texts with their drugs and effects, each span once; without those whose spans overlap."""
    records = []
    for raw in path.open():
        row = json.loads(raw)
        spans = {(*relation[f"{kind.lower()}_span"], kind) for relation in row["relations"] for kind in KINDS}
        ordered = sorted(spans)
        if all(first[1] <= second[0] for first, second in pairwise(ordered)):
            records.append({"text": row["text"], "spans": [cell(*span) for span in ordered]})
    return records


def cell(start: int, end: int, label: str) -> dict[str, Any]:
    """Return a span as a row holds it."""
    return {"start": start, "end": end, "label": label}


def elsewhere(text: str, spans: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return a text with its spans moved to other words, as many words long each, apart from each other; one without room is left out."""
    draw, locations, taken = random.Random(f"{seed}:{text}"), word_locations(text), set()
    moved = []
    for span in spans:
        tags = tags_of([Span(span["start"], span["end"], span["label"])], locations, tags_for(KINDS))
        length = sum(tag != "O" for tag in tags)
        free = [first for first in range(len(locations) - length + 1) if not taken & set(range(first, first + length))]
        if free:
            first = draw.choice(free)
            taken |= set(range(first, first + length))
            moved.append(cell(locations[first][0], locations[first + length - 1][1], span["label"]))
    return {"text": text, "spans": sorted(moved, key=lambda span: span["start"])}


def data_of(bench: StageBench, name: str, records: list[dict[str, Any]]) -> Any:
    """Return records as a data set, of spans or of plain texts."""
    file = bench.home / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    columns = {"columns": {"question": "text", "spans": "spans"}} if "spans" in records[0] else {}
    choose = 0.0 if name == "test" else 0.05
    config = {"source": f"jsonl:{file}", "name": name, "heldout_fraction": 0.0, "choose_fraction": choose, **columns}
    return bench.run("ingest_data", config)


def line(model: str, learns: str, data: Any, facts: Any) -> str:
    """Return a row of the table: each figure with its interval."""
    figures = [f"{facts[name]:.3f} [{facts[name + LOW]:.3f}, {facts[name + HIGH]:.3f}]" for name in FIGURES]
    return f"| {' | '.join([model, learns, f'{data.facts.num_rows:,}', *figures])} |"


if __name__ == "__main__":
    recorded(main)
