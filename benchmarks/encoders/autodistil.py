"""Sub-networks of an elastic encoder (AutoDistil): the searched one beside the same sizes cut bare, trained alone, and others of its budget.

python benchmarks/encoders/autodistil.py HOME PAIRS_TRAIN.jsonl PAIRS_TEST.jsonl [MORE.jsonl ...] [--steps=160] [--budget=0.5] [--ranked=6]

PAIRS: sentence1, sentence2, score. MORE: files of sentence1 and sentence2. Training reads texts alone, of the train files; Spearman is of
PAIRS_TEST. One elastic training; the sub-network nearest to the original within the budget is taken out and not trained on. Beside it: the same
sizes cut of the original without training, and trained alone by as many steps of the same texts and losses. Then of `--ranked` sub-networks
within the budget, evenly over the search's own order, Spearman beside the proxy, and their rank correlation. HOME keeps what was made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from encoder import MODEL, PAIR, SOURCE

from attar.compressors.measure.ranking import spearman
from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

SPACE = {"blocks": [3, 4], "width": [192, 288], "heads": [6, 9], "channels": [768]}
TRAINING: dict[str, Any] = {
    "objectives": {
        "similarity_rows": 1.0,
        "relation": {"divergence": {"self_attention_relation": {"num_relation_heads": 12}}, "weight": 0.1},
    },
    "teacher": {"kind": "input"},
    "rows": {"max_tokens": 64},
    "heldout": {"every": 80, "patience": 0},
    "compute": {"tokens_per_micro_batch": 1024, "precision": "float32"},
}
COLUMNS = ("encoder", "blocks", "width", "parameters M", "Spearman", "seconds to make")


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, pairs_train, pairs_test, *more = (word for word in sys.argv[1:] if not word.startswith("--"))
    configure_process()
    bench = Bench(Path(home))
    part = {"heldout_fraction": 0.0, "choose_fraction": 0.05}
    train = tuple(bench.data(path, PAIR, **part) for path in (pairs_train, *more))
    test = bench.data(pairs_test, {**PAIR, "similarity": "score"}, heldout_fraction=0.0)
    original = bench.run("ingest_model", {"source": SOURCE, "model": MODEL})
    schedule = {"num_epochs": 20, "max_steps": int(options.get("steps", 160)), "tokens_per_step": 1024}
    supernet, seconds = _trained(
        bench,
        original,
        original,
        train,
        {"kind": "elastic", "space": SPACE, "order": ["width", "channels"]},
        schedule,
        3e-4,
    )
    search = {"elastic": {"budget": {"parameters": float(options.get("budget", 0.5))}, "num_samples": 512}}
    taken = bench.run("prune", search, model=supernet, data=train, teacher=original)
    search_seconds = bench.seconds
    record = json.loads((taken.path / "records" / "search.json").read_text())
    cut = bench.run("prune", {"elastic": {"subnet": record["taken"]}}, model=original)
    alone, alone_seconds = _trained(bench, cut, original, train, {"kind": "full"}, schedule, 5e-4)
    print(
        f"Spearman on {test.facts.num_rows} pairs, sub-networks within {options.get('budget', '0.5')} of the parameters"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name, model, made in (
        ("original", original, 0.0),
        ("elastic, the whole", supernet, seconds),
        ("elastic, searched, not trained on", taken, search_seconds),
        ("the same sizes, cut bare", cut, 0.0),
        ("the same sizes, trained alone", alone, alone_seconds),
    ):
        cells = [
            name,
            f"{model.facts.num_blocks}",
            f"{model.facts.hidden_size}",
            f"{model.facts.num_parameters / 1e6:.1f}",
        ]
        print(f"| {' | '.join([*cells, _spearman(bench, model, test), f'{made:.0f}' if made else ''])} |", flush=True)
    _ranked(bench, supernet, record["candidates"], test, int(options.get("ranked", 6)))


def _trained(
    bench: Bench, model: Any, teacher: Any, data: Any, adapt: dict[str, Any], schedule: dict[str, Any], rate: float
) -> tuple[Any, float]:
    """Return a model trained toward the teacher, with the seconds that it took."""
    config = {**TRAINING, "adapt": adapt, "schedule": {**schedule, "learning_rate": rate}}
    student = bench.run("finetune", config, model=model, data=data, teacher=teacher)
    seconds = bench.seconds
    return bench.run("merge", {}, base=model, students=(student,)), seconds


def _ranked(bench: Bench, supernet: Any, candidates: list[dict[str, Any]], test: Any, count: int) -> None:
    """Print the figures of some candidates in the order of their proxy, and how both orders agree."""
    chosen = [
        candidates[index * (len(candidates) - 1) // max(count - 1, 1)] for index in range(min(count, len(candidates)))
    ]
    print(
        "\nThe proxy and the figure\n| sub-network | of the parameters | proxy, nats | Spearman |\n|---|---|---|---|",
        flush=True,
    )
    figures = []
    for candidate in chosen:
        sizes = candidate["subnet"]
        model = bench.run("prune", {"elastic": {"subnet": sizes}}, model=supernet)
        figures.append(_spearman(bench, model, test))
        name = ", ".join(f"{size} {axis}" for axis, size in sizes.items())
        print(f"| {name} | {candidate['parameters']:.3f} | {candidate['proxy_nats']:.4f} | {figures[-1]} |", flush=True)
    correlation = spearman(
        [-candidate["proxy_nats"] for candidate in chosen], [float(figure.split()[0]) for figure in figures]
    )
    print(f"\nRank correlation of the proxy with Spearman over {len(chosen)} sub-networks: {correlation:.2f}")


def _spearman(bench: Bench, model: Any, test: Any) -> str:
    facts = bench.run("evaluate", {"precision": "float32"}, model=model, tasks=(test,)).facts
    return f"{facts['spearman']:.3f} [{facts['spearman' + LOW]:.3f}, {facts['spearman' + HIGH]:.3f}]"


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
