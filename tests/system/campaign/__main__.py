"""The campaign: `python -m tests.system.campaign recipes stores` tries inputs of these kinds and writes down how they ended.

Each sitting goes on behind the last one's inputs until a kind has its full count; it may be ended at any moment.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from tests.system.campaign.crew import Tally, try_inputs
from tests.system.campaign.ledger import (
    RESULTS,
    added,
    begun,
    commit,
    next_seeds,
    read_record,
    retried,
    write_record,
)

# One module of this folder each, with COUNT, CLEAN, prepare(scratch) and attempt(prepared, seed, folder).
KINDS = ("recipes", "settings", "rows", "stores", "gguf", "folders", "subjects", "images")
# So often a sitting is written down while it goes on.
NUM_BETWEEN_WRITES = 50


def main() -> None:
    """Try, print, and write each kind's figures as they grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--count", type=int, default=0, help="inputs a kind; 0: those missing to what its module says")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when it is enough, for all kinds together")
    parser.add_argument("--retry", action="store_true", help="try the inputs of listed faults again, and no others")
    parser.add_argument("--fresh", action="store_true", help="forget earlier sittings: count from the first input on")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS / "campaign.json")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    for name in options.kinds:
        record = {} if options.fresh else read_record(options.results, name)
        if options.retry:
            tally = try_inputs(name, [fault["seed"] for fault in record.get("faults", [])], options.workers)
            record = retried(record, tally, commit())
            write_record(options.results, name, record)
        else:
            record = sit(name, record, options, deadline)
        print(json.dumps({name: {**record, "machine": {}, "sittings": len(record.get("sittings", []))}}, indent=1))


def sit(name: str, record: dict, options: argparse.Namespace, deadline: float) -> dict:
    """Try a kind's next inputs, and write them down as they end."""
    seeds = next_seeds(record, importlib.import_module(f"tests.system.campaign.inputs.{name}").COUNT, options.count)
    sitting = begun(seeds.start, " ".join(["python", "-m", "tests.system.campaign", *sys.argv[1:]]))
    started = time.monotonic()

    def grown(tally: Tally) -> dict:
        return added(record, tally, sitting | {"seconds": round(time.monotonic() - started, 1)})

    def write_down(tally: Tally) -> None:
        if len(tally.seeds) % NUM_BETWEEN_WRITES == 0:
            write_record(options.results, name, grown(tally))

    tally = try_inputs(name, seeds, options.workers, deadline, write_down)
    if not tally.seeds:
        return record
    write_record(options.results, name, grown(tally))
    return grown(tally)


if __name__ == "__main__":
    main()
