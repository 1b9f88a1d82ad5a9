"""A retriever that thinks in latent tokens (LaSER): questions whose facts share few words with them, arm by arm.

python benchmarks/encoders/latent_reasoning.py HOME TRAIN.jsonl DEV.jsonl CORPUS.jsonl [--seeds=0,1] [--rows=400] [--texts=2500] [--latents=3]

TRAIN, DEV: question, steps, hypothesis, positives; CORPUS: id, text. Each seed draws the training rows, of each a fact that it names, and their
order. The corpus is every fact that a question of DEV names and others up to `--texts`. Arms, by the same rows and steps: the encoder as it
comes; trained by pair_contrast; behind latent tokens by the same loss; with the explicit view's scores; with its steps too; and, as what is to be
reached, the encoder that reads the reasoning in training and when it is asked. HOME keeps what was made: an interrupted sitting goes on.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from encoder import MODEL, SOURCE

from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

MAX_TOKENS = 96
CONTRAST = {"pair_contrast": {"divergence": {"pair_contrast": {"temperature": 0.02}}}}
SCORES: dict[str, Any] = {**CONTRAST, "reasoned_contrast": 1.0, "reasoned_scores": 10.0}
# Arm: whether it has latent tokens, whether it reads the reasoning itself, what it learns by.
ARMS: dict[str, tuple[bool, bool, dict[str, Any]]] = {
    "trained": (False, False, CONTRAST),
    "latent tokens": (True, False, CONTRAST),
    "latent tokens, explicit view's scores": (True, False, SCORES),
    "latent tokens, scores and steps (LaSER)": (True, False, {**SCORES, "reasoned_steps": 0.1}),
    "reads the reasoning": (False, True, CONTRAST),
}
TRAINING: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "rows": {"max_tokens": MAX_TOKENS},
    "compute": {"tokens_per_micro_batch": 4096, "precision": "float32"},
    "heldout": {"every": 1000},
}
METRICS = ("recall_10", "ndcg_10")


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, train, dev, corpus = (Path(word) for word in sys.argv[1:] if not word.startswith("--"))
    seeds, num_rows = [int(seed) for seed in options.get("seeds", "0,1").split(",")], int(options.get("rows", 400))
    configure_process()
    bench = Bench(home)
    plain, thinking = (
        bench.run("ingest_model", {"source": SOURCE, "model": {**MODEL, "max_tokens": MAX_TOKENS, **latent}})
        for latent in ({}, {"latent": {"num_tokens": int(options.get("latents", 3))}})
    )
    facts = {int(row["id"]): row["text"] for row in read(corpus)}
    questions = read(dev)
    texts = searched(bench, facts, questions, int(options.get("texts", 2500)))
    questions_of = {is_read: tasks(bench, questions, is_read=is_read) for is_read in (False, True)}
    measured: dict[str, list[Any]] = {"as it comes": [scores(bench, plain, questions_of[False], texts)]}
    for seed in seeds:
        for arm, (has_latents, is_read, objectives) in ARMS.items():
            rows = lessons(bench, drawn(read(train), facts, num_rows, seed), f"{seed}-{num_rows}", is_read=is_read)
            schedule = {"num_epochs": 2, "learning_rate": 5e-5, "tokens_per_step": 4096, "seed": seed}
            config = {**TRAINING, "objectives": objectives, "schedule": schedule}
            model = thinking if has_latents else plain
            student = bench.run("finetune", config, model=model, data=(rows,))
            print(f"  seed {seed}, {arm}: {bench.seconds:.0f} s", file=sys.stderr, flush=True)
            healed = bench.run("merge", {}, base=model, students=(student,))
            measured.setdefault(arm, []).append(scores(bench, healed, questions_of[is_read], texts))
    columns = ["all-MiniLM-L6-v2", "recall@10", "nDCG@10", "each seed's nDCG@10 with its interval"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for arm, values in measured.items():
        means = [f"{mean(some[metric] for some in values):.3f}" for metric in METRICS]
        ends = [tuple(some[f"ndcg_10{end}"] for end in ("", LOW, HIGH)) for some in values]
        print(
            f"| {arm} | {' | '.join(means)} | {'; '.join('{:.3f} [{:.3f}, {:.3f}]'.format(*some) for some in ends)} |"
        )


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(bench: Bench, name: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Write records beside the store and return where."""
    file = bench.store.root / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    return str(file)


def searched(bench: Bench, facts: Mapping[int, str], questions: Sequence[Mapping[str, Any]], num_texts: int) -> Any:
    """Return a corpus: the facts that questions name, and others, drawn once."""
    named = sorted({index for row in questions for index in row["positives"]})
    others = sorted({*facts} - {*named})
    random.Random(0).shuffle(others)
    chosen = [*named, *others[: max(0, num_texts - len(named))]]
    records = [{"id": str(index), "text": facts[index]} for index in chosen]
    return bench.data(written(bench, "corpus", records), {"row_id": "id"}, name="facts", heldout_fraction=0.0)


def tasks(bench: Bench, questions: Sequence[Mapping[str, Any]], *, is_read: bool) -> Any:
    """Return the questions with the facts that they name; `is_read`: behind each its reasoning."""
    records = [
        {"question": asked_text(row, is_read=is_read), "positives": list(map(str, row["positives"]))}
        for row in questions
    ]
    name = "reasoned" if is_read else "questions"
    return bench.data(written(bench, name, records), {"positives": "positives"}, name=name, heldout_fraction=0.0)


def drawn(
    rows: list[dict[str, Any]], facts: Mapping[int, str], num_rows: int, seed: int
) -> list[tuple[dict[str, Any], str]]:
    """Return the rows that a seed draws, each with the text of a fact that it names."""
    generator = random.Random(seed)
    generator.shuffle(rows)
    return [(row, facts[generator.choice(row["positives"])]) for row in rows[:num_rows]]


def lessons(bench: Bench, rows: Sequence[tuple[Mapping[str, Any], str]], name: str, *, is_read: bool) -> Any:
    """Return training rows: a question, a fact, and the reasoning beside them or read with the question."""
    records = [
        {"question": asked_text(row, is_read=is_read), "text": text, "steps": reasoning(row)} for row, text in rows
    ]
    path = written(bench, f"train-{name}{'-reasoned' if is_read else ''}", records)
    return bench.data(path, {"answer": "text", "reasoning": "steps"}, name="train", heldout_fraction=0.0)


def asked_text(row: Mapping[str, Any], *, is_read: bool) -> str:
    """Return a question, alone or with its reasoning."""
    return "\n\n".join([row["question"], *(reasoning(row) if is_read else [])])


def reasoning(row: Mapping[str, Any]) -> list[str]:
    """Return the steps of a row: what it concludes on the way, and in the end."""
    return [*row["steps"], row["hypothesis"]]


def scores(bench: Bench, model: Any, questions: Any, texts: Any) -> Any:
    """Return the figures of finding the facts."""
    inputs = {"model": model, "tasks": (questions,), "text": texts}
    return bench.run("evaluate", {"precision": "float32"}, **inputs).facts


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
