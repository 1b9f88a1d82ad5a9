"""The solved plan against the best single axis at equal parameters and at equal decode time, before any healing; resumable.

python benchmarks/solve/study.py MODEL DATA [--seeds 0,1,2] [--fractions 0.85,0.6] [--tokens 4096] [--texts 16] [--out FOLDER] [--tables-only]
DATA holds wikitext2, gsm8k and self_instruct. Each arm is cut, refitted in closed form on the seed's draw of calibration texts, and its
KL to the original is measured on held-out texts. Losses of candidates are measured on the first seed's draw; ranks of units, trials of
the repair, plans and fits are each seed's own. A narrower stream is priced bare.
What is done is kept in --out; benchmarks/results/solve.json is written at the end.
"""

from __future__ import annotations

import gc
import json
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from arms import (
    PROBED_STEP,
    Arm,
    Measured,
    cut_model,
    measure_candidates,
    redrawn,
    single_axis_plans,
    with_repair,
    without,
)
from result_file import read_tables, write_result
from tables import report
from texts import Text, Texts, calibration_pool, drawn, heldout_texts

from attar.compressors.measure.cost import measure_in_turns, num_parameters
from attar.compressors.measure.retokenised import retokenised_closeness
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.solve.exact import solve
from attar.compressors.prune.solve.vocabulary import FewerTokens
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, load_tokenizer

NUM_OWN, PROBED_A_KIND, TIMES = 72, 4, "times.json"
BLOCKS_OF_BUDGET = 6
# Arms of every seed, in this order; then the others, the first seed's.
EVERY_SEED = ("window-size", "channels-size", "solve-size", "channels-time", "solve-time")


def main(
    model: Path,
    data: Path,
    seeds: str = "0,1,2",
    fractions: Annotated[str, typer.Option(help="More budgets, shares of the parameters; the first seed's.")] = "",
    tokens: Annotated[int, typer.Option(help="To calibrate on, of each of three kinds.")] = 4096,
    texts: Annotated[int, typer.Option(help="Held out, of each kind.")] = 16,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Measure nothing, write what is there.")] = False,
    out: Path = Path("solve-study"),
) -> None:
    """Measure what is missing, then write the tables."""
    out.mkdir(parents=True, exist_ok=True)
    if tables_only:
        write_tables(out, seeds)
        return
    configure_process()
    torch.manual_seed(0)
    whole = load_model(model, torch.bfloat16)
    tokenizer = load_tokenizer(model)
    heldout = heldout_texts(whole, tokenizer, model, data, out, texts)
    remembered = Remembered(whole)
    pool = calibration_pool(whole, tokenizer, model, data, out, NUM_OWN)
    later: list[tuple[Study, Sequence[Arm]]] = []
    for index, seed in enumerate(map(int, seeds.split(","))):
        part = drawn(pool, seed, tokens, PROBED_A_KIND)
        if not index:
            candidates = kept_measurement(out / f"candidates-{seed}.pickle", whole, tokenizer, model, part)
        measured = candidates if not index else redrawn(candidates, whole, part)
        study = Study(measured, remembered, model, part, heldout, out, seed)
        singles = single_axis_plans(measured, {"parameters": measured.left_without_blocks(BLOCKS_OF_BUDGET)}, "size")
        repaired = with_repair(measured, *(study.done(arm) for arm in singles if arm.name in EVERY_SEED))
        arms = solved_arms(repaired, [float(word) for word in fractions.split(",") if word])
        study.done(arms[0])  # equal parameters of every seed before anything else
        later.append((study, [arm for arm in arms if arm.name in EVERY_SEED]))
        if not index:
            first = study, [*singles, *arms]
    for study, arms in [*later, first]:
        for arm in arms:
            study.done(arm)
    if not (out / TIMES).exists():
        timed = decode_times(whole, model, repaired, [*singles, *solved_arms(repaired, [])])
        (out / TIMES).write_text(json.dumps(timed, indent=1))
    write_tables(out, seeds)


def write_tables(out: Path, seeds: str) -> None:
    """Print and keep the tables of all that was measured."""
    times = json.loads((out / TIMES).read_text()) if (out / TIMES).exists() else {}
    lines = report(out, [int(word) for word in seeds.split(",")], times)
    print("\n".join(lines))
    sys.argv = [word for word in sys.argv if word != "--tables-only"]  # the result names the command that measures
    write_result("solve", *read_tables("\n".join(lines)))


def solved_arms(measured: Measured, fractions: Sequence[float]) -> list[Arm]:
    """Return the solved plans at the size and the decode time without 6 blocks; every axis at other shares of the parameters."""
    at_size = measured.left_without_blocks(BLOCKS_OF_BUDGET, "parameters")
    at_time = measured.left_without_blocks(BLOCKS_OF_BUDGET, "ms")
    arms = [Arm("solve-size", solve(measured.problem, {"parameters": at_size}))]
    singles = single_axis_plans(measured, {"ms": at_time}, "time")
    arms += [arm for arm in singles if arm.name == "channels-time"]  # the window is the one of equal parameters
    arms.append(Arm("solve-time", solve(measured.problem, {"ms": at_time})))
    arms.append(Arm("blocks-size", solve(without(measured.problem, "vocabulary"), {"parameters": at_size})))
    for fraction in fractions:
        budget = {"parameters": fraction * measured.problem.totals["parameters"]}
        arms += single_axis_plans(measured, budget, f"{fraction:g}")
        arms.append(Arm(f"solve-{fraction:g}", solve(measured.problem, budget)))
    return arms


def kept_measurement(path: Path, whole: Any, tokenizer: Any, folder: Path, part: Texts) -> Measured:
    """Return a seed's candidates, from the file of an earlier run where there is one."""
    if not path.exists():
        started = time.perf_counter()
        path.write_bytes(pickle.dumps(measure_candidates(whole, tokenizer, folder, part)))
        print(f"candidates: {time.perf_counter() - started:.0f} s", flush=True)
    return pickle.loads(path.read_bytes())


@dataclass
class Remembered:
    """The original, whose logits of a text are computed once for all arms."""

    model: Any
    logits: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        key = tuple(input_ids[0].tolist())
        if key not in self.logits:
            self.logits[key] = self.model(input_ids=input_ids, use_cache=use_cache).logits
        return SimpleNamespace(logits=self.logits[key])


@dataclass(frozen=True)
class Study:
    """One seed: what was measured of it, what it is held against, and where its results are kept."""

    measured: Measured
    original: Remembered
    folder: Path
    part: Texts
    heldout: Mapping[str, Sequence[Text]]
    out: Path
    seed: int

    def done(self, arm: Arm) -> dict[str, Any]:
        """Return an arm's result, from its file where an earlier run wrote it."""
        path = self.out / f"{arm.name}-{self.seed}.json"
        if not path.exists():
            path.write_text(json.dumps(self._run(arm), indent=1))
        result = json.loads(path.read_text())
        print(f"seed {self.seed} {arm.name}: {summary(result)}", flush=True)
        return result

    def _run(self, arm: Arm) -> dict[str, Any]:
        """Cut, refit and measure one arm: on the held-out texts, and on those that its candidates were measured on."""
        started = time.perf_counter()
        student, vocabulary = cut_model(
            arm.plan, self.measured, self.original.model, self.folder, self.part.calibration
        )
        seconds = time.perf_counter() - started
        result: dict[str, Any] = {"plan": str(arm.plan), "predicted_nats": arm.plan.predicted_nats, "seconds": seconds}
        result |= {"left": dict(arm.plan.left), "num_parameters": num_parameters(student)}
        texts = {"probed": [Text(ids) for ids in self.part.probed[::PROBED_STEP]], **self.heldout}
        rows = {kind: [self._closeness(student, vocabulary, text) for text in some] for kind, some in texts.items()}
        del student
        gc.collect()
        return {**result, "probed": rows.pop("probed"), "texts": rows}

    def _closeness(self, student: Any, vocabulary: FewerTokens, text: Text) -> list[float]:
        firsts = vocabulary.first_pieces(self.original.model.config.vocab_size)
        close = retokenised_closeness(student, self.original, vocabulary.aligned(text.ids), firsts, text.num_context)  # type: ignore[arg-type]
        return [close.kl_nats, close.num_tokens]


def summary(result: Mapping[str, Any]) -> str:
    means = {kind: sum(row[0] for row in rows) / sum(row[1] for row in rows) for kind, rows in result["texts"].items()}
    shown = ", ".join(f"{kind} {value:.3f}" for kind, value in means.items())
    return (
        f"{shown}; predicted {result['predicted_nats']:.3f}; {result['num_parameters'] / 1e6:.1f} M; {result['plan']}"
    )


def decode_times(whole: Any, folder: Path, measured: Measured, arms: Sequence[Arm]) -> dict[str, list[float]]:
    """Return milliseconds a decoded token of every arm's shape, median and quartiles, in turns with the original."""
    models = [whole, *(cut_model(arm.plan, measured, whole, folder, [])[0] for arm in arms)]
    sizes = min(model.config.vocab_size for model in models)
    timed = measure_in_turns(
        [TorchRunner(model) for model in models], vocab_size=sizes, num_new_tokens=24, num_rounds=9
    )
    return {
        name: [1e3 * value for value in (latency.decode.median, latency.decode.low, latency.decode.high)]
        for name, latency in zip(["original", *(arm.name for arm in arms)], timed, strict=True)
    }


if __name__ == "__main__":
    typer.run(main)
