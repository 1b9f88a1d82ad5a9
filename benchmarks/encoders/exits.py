"""Exits of an encoder after 2, 4 and 6 blocks: text-to-code retrieval at each, learned together against the finally trained model cut there.

python benchmarks/encoders/exits.py HOME CODE_TRAIN.jsonl CODE_TEST.jsonl [--seeds=0,1] [--rows=800] [--queries=0]

CODE: query, code. Each seed draws the training rows, `--rows` of them, and their order. Arms, by the same rows, steps and start: the encoder
as it comes; trained by pair_contrast at its last block alone, then cut; trained at all three exits, weights i / 6. MRR over all codes of TEST;
a cut is an exit number for number. HOME keeps what was made: an interrupted sitting goes on.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from encoder import MODEL, SOURCE

from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

EXITS, BLOCKS = (2, 4, 6), 6
MAX_TOKENS = 64
COLUMNS = {"question": "query", "answer": "code"}
TRAINING: dict[str, Any] = {
    "objectives": {"pair_contrast": 1.0},
    "rows": {"max_tokens": MAX_TOKENS},
    "compute": {"tokens_per_micro_batch": 4096, "precision": "float32"},
    "heldout": {"every": 1000},
}
ADAPT: dict[str, dict[str, Any]] = {
    "trained at block 6, then cut": {"kind": "full"},
    "trained at exits 2, 4, 6": {"kind": "full", "exits": list(EXITS)},
}
# Of a figure: the value and the ends of its interval.
Figure = tuple[float, float, float]


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, train, test = (word for word in sys.argv[1:] if not word.startswith("--"))
    seeds, num_rows = [int(seed) for seed in options.get("seeds", "0,1").split(",")], int(options.get("rows", 800))
    configure_process()
    bench = Bench(Path(home))
    model = bench.run("ingest_model", {"source": SOURCE, "model": {**MODEL, "max_tokens": MAX_TOKENS}})
    queries = bench.data(test, COLUMNS, name="code", heldout_fraction=0.0, max_rows=int(options.get("queries", 0)))
    measured: dict[str, list[dict[int, Figure]]] = {"as it comes": [figures(bench, model, queries)]}
    for seed in seeds:
        rows = bench.data(drawn(Path(home), Path(train), num_rows, seed), COLUMNS, name="train", heldout_fraction=0.0)
        for arm, adapt in ADAPT.items():
            schedule = {"num_epochs": 1, "learning_rate": 1e-4, "tokens_per_step": 4096, "seed": seed}
            config = {**TRAINING, "adapt": adapt, "schedule": schedule}
            student = bench.run("finetune", config, model=model, data=(rows,))
            healed = bench.run("merge", {}, base=model, students=(student,))
            measured.setdefault(arm, []).append(figures(bench, healed, queries))
            print(f"  seed {seed}, {arm}: {measured[arm][-1]}", file=sys.stderr, flush=True)
    columns = ["all-MiniLM-L6-v2", *(f"MRR at exit {depth}" for depth in EXITS), "each seed with its intervals"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for arm, values in measured.items():
        means = [f"{mean(some[depth][0] for some in values):.3f}" for depth in EXITS]
        each = "; ".join(
            ", ".join("{:.3f} [{:.3f}, {:.3f}]".format(*some[depth]) for depth in EXITS) for some in values
        )
        print(f"| {arm} | {' | '.join(means)} | {each} |")


def figures(bench: Bench, model: Any, queries: Any) -> dict[int, Figure]:
    """Return MRR at each exit: of one evaluation where the model learned there, else of the model cut there."""
    if "exits" in model.facts:
        facts = bench.run("evaluate", {"precision": "float32"}, model=model, tasks=(queries,)).facts
        return {depth: _mrr(facts, "" if depth == BLOCKS else f"exit_{depth}_") for depth in EXITS}
    by_depth = {}
    for depth in EXITS:
        blocks = list(range(depth, BLOCKS))
        cut = bench.run("prune", {"blocks": blocks}, model=model) if blocks else model
        by_depth[depth] = _mrr(bench.run("evaluate", {"precision": "float32"}, model=cut, tasks=(queries,)).facts)
    return by_depth


def _mrr(facts: Any, prefix: str = "") -> Figure:
    return tuple(float(facts[f"{prefix}mrr{end}"]) for end in ("", LOW, HIGH))  # type: ignore[return-value]


def drawn(home: Path, path: Path, num_rows: int, seed: int) -> str:
    """Write the rows that a seed draws of a file, in its order, and return where."""
    lines = path.read_text().splitlines()
    random.Random(seed).shuffle(lines)
    file = home / f"{path.stem}-{seed}-{num_rows}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(line for line in lines[:num_rows] if json.loads(line)["query"].strip()) + "\n")
    return str(file)


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
