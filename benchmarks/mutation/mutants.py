"""Which wrong science no test catches: mutate the modules that [tool.mutmut] of pyproject.toml names, and count what the quick tests kill.

python benchmarks/mutation/mutants.py [MODULE ...] [--minutes 35] [--sample 300] [--survivors] [--show]
MODULE: such as attar.compressors.quantize.blocks; none: all that are configured. Each sitting goes on where the last one ended:
tests/mutants/verdicts.json holds a letter a mutant. --sample runs the first so many of one random order over all modules, however many
those have: what is killed of them tells the share of all, with its interval. --survivors runs those that lived once more (after tests
have changed), --show prints how each differs and runs nothing, --minutes 0 only writes down what an interrupted sitting left. A mutant
is killed when a test fails, or runs into its time limit; one that no test reaches is counted as surviving.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from verdicts import (
    SEED,
    Verdicts,
    collected,
    figures,
    read_verdicts,
    restore,
    sample_verdicts,
    sampled,
    survivors,
    undecided,
    write_verdicts,
)

from attar.compressors.measure.paired import share

FOLDER = Path("mutants")
VERDICTS = Path("tests/mutants/verdicts.json")
WANTED_SHARE = 0.9


def main(
    modules: Annotated[list[str] | None, typer.Argument()] = None,
    minutes: float = 35.0,
    out: Path = Path("benchmarks/results/mutants.json"),
    sample: Annotated[int, typer.Option(min=0, help="run a random sample of so many")] = 0,
    survivors_too: Annotated[bool, typer.Option("--survivors", help="run again what lived")] = False,
    is_shown: Annotated[bool, typer.Option("--show", help="print what lives, and run nothing")] = False,
) -> None:
    """Run mutants until the time is over, and write what became of each."""
    earlier = read_verdicts(VERDICTS)
    if is_shown:
        show(survivors(earlier, modules or ()))
        return
    restore(FOLDER, earlier, modules or (), forget_survivors=survivors_too)
    names = sampled(FOLDER, sample) if sample else undecided(FOLDER, modules or ())
    if minutes > 0 and (names or not (modules or sample)):
        run(names, 60.0 * minutes)
    verdicts = collected(FOLDER, earlier, commit())
    write_verdicts(VERDICTS, verdicts)
    made = result(verdicts)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n")
    for name, counts in made["modules"].items():
        print(
            f"{counts['killed_share']:6.1%}  {counts['killed']:>4} of {counts['killed'] + counts['survived']:<4} {name}"
        )
    print(f"{made['killed']} of {made['run']} killed, {made['not_run']} not run; what lives: --show")
    print(f"of a random sample: {json.dumps(made['sample'])}")


def result(verdicts: Verdicts) -> dict[str, Any]:
    """Return what the results' file says: sums, then each module with its commits."""
    modules = figures(verdicts)
    killed, survived, not_run = (
        sum(counts[key] for counts in modules.values()) for key in ("killed", "survived", "not_run")
    )
    whole = {name: counts for name, counts in modules.items() if not counts["not_run"]}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("mutmut", "pytest", "torch")},
        "killed": killed,
        "run": killed + survived,
        "not_run": not_run,
        "modules_run_whole": len(whole),
        "sample": sample_result(sample_verdicts(verdicts)),
        "below_wanted": [name for name, counts in whole.items() if counts["killed_share"] < WANTED_SHARE],
        "modules": modules,
    }


def sample_result(are_killed: list[bool]) -> dict[str, Any]:
    """Return the share that is killed of the random sample, with Wilson's 95% interval."""
    if not are_killed:
        return {"seed": SEED, "run": 0}
    estimate = share([float(is_killed) for is_killed in are_killed])
    shares = {"share": estimate.value, "low": estimate.low, "high": estimate.high}
    rounded = {name: round(float(figure), 4) for name, figure in shares.items()}
    return {"seed": SEED, "run": len(are_killed), "killed": sum(are_killed), **rounded}


def run(names: list[str], seconds: float) -> None:
    """Let mutmut work for so long; what it has seen by then is kept. No names: all that have no verdict yet."""
    statistics, settings = FOLDER / "mutmut-stats.json", Path("pyproject.toml")
    if statistics.is_file() and statistics.stat().st_mtime < settings.stat().st_mtime:
        statistics.unlink()  # with those of another list of tests, mutmut would forget every verdict
    command = [sys.executable, str(Path(__file__).with_name("decorated.py")), "run", "--max-children", "1", *names]
    # plugins cost each of thousands of test runs more than its tests
    lean = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would leave it deaf to it
    worker = subprocess.Popen(command, start_new_session=True, env=os.environ | lean)
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        for ending in (signal.SIGINT, signal.SIGKILL):
            with suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.killpg(worker.pid, ending)
                worker.wait(30)


def show(names: Sequence[str]) -> None:
    """Print the difference that each mutant makes."""
    from mutmut.mutation.diff_apply import find_mutant, get_diff_for_mutant  # here: the tool lies apart

    for name in names:
        print(f"# {name}\n{get_diff_for_mutant(name, path=find_mutant(name).path)}")


def commit() -> str:
    """Return the commit that was mutated, marked where files differ from it."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    typer.run(main)
