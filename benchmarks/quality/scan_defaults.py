"""Are the defaults of `scan` right: which window each setting would cut from a model, and what that cut leaves of the original.

python benchmarks/quality/scan_defaults.py MODEL_FOLDER DATA_FOLDER [--sizes 2,4,6,8,10] [--tokens 4096] [--precision bfloat16]
DATA_FOLDER holds wikitext2 and gsm8k. Every calibration set, choice of tokens counted and of the first token is scanned as the stage
does, under each cosine metric. A window is measured once, however many settings choose it; nothing is patched or trained.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from attar.compressors.measure.closeness import Sums
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.depth.calibration import CountedTokens
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import Scores
from attar.compressors.prune.depth.select import Saving, choose_window
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.runs import ScanRun

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from retention import GSM8K, WIKITEXT, Window, cells, losses_of_cuts, mean, pairs_of

# calibration set -> its source, from the data folder on where it is no file of ours
SETS = {
    "WikiText": "text:{}/wikitext2/valid.txt",
    "GSM8K": "jsonl:{}/gsm8k/train.jsonl",
    "chat": "jsonl:shipped/everyday.jsonl",
}
FIRST_TOKENS: dict[str, dict[str, bool]] = {
    "as it is": {},
    "prepend_bos": {"prepend_bos": True},
    "skip_first": {"skip_first": True},
}
ALL_SETS = "mean of all"
MEASURES = "perplexity ratio WikiText", "KL WikiText", "KL GSM8K"
BATCH_SIZE = 4
Measured = Mapping[Window, Mapping[str, Sums]]


class Setting(NamedTuple):
    """How a window is chosen."""

    data: str
    tokens: str
    first_token: str
    metric: str

    @property
    def default(self) -> Setting:
        """What the stages take unless told otherwise, on the same calibration set."""
        return Setting(
            self.data, ScanConfig().calibration.tokens, "as it is", PruneConfig.model_fields["metric"].default
        )


def main(
    model: Path,
    data: Path,
    sizes: Annotated[str, typer.Option(help="Numbers of blocks to remove.")] = "2,4,6,8,10",
    tokens: Annotated[int, typer.Option(help="Of each test part that a cut is measured on.")] = 4096,
    precision: Annotated[str, typer.Option(help="Of scans and measures: auto, float32 or bfloat16.")] = "bfloat16",
) -> None:
    """Print a table a size, then the means over the sizes."""
    configure_process()
    device = pick_device()
    whole = load_model(model, pick_dtype(precision, device), device)  # type: ignore[arg-type]
    scores = scanned(whole, model, data)
    num_blocks = whole.config.num_hidden_layers
    counts = [int(part) for part in sizes.split(",")]
    chosen = {
        (setting, count): (choose_window(table, [Saving.of_count(count, num_blocks)])[0], count)
        for setting, table in scores.items()
        for count in counts
    }
    pairs = pairs_of(model, data, tokens)
    measured = losses_of_cuts(TorchRunner(whole), sorted(set(chosen.values())), pairs, batch_size=BATCH_SIZE)
    cells_of = {window: cells(left) for window, left in measured.items()}
    for count in counts:
        header(f"{count} blocks, chosen on", ["window", *MEASURES])
        for setting in scores:
            window = chosen[setting, count]
            removed = f"{window[0]} to {sum(window) - 1}"
            print(f"| {' | '.join([*setting, removed, *cells_of[window]])} |")
    summary({setting: [chosen[setting, count] for count in counts] for setting in scores}, measured)


def header(first: str, rest: Sequence[str]) -> None:
    columns = [first, "tokens", "first token", "metric", *rest]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def scanned(whole: Any, folder: Path, data: Path) -> dict[Setting, Scores]:
    """Return every setting's scores of all windows; a scan computes both metrics."""
    scores: dict[Setting, Scores] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, source in SETS.items():
            read = IngestDataConfig(source=source.format(data.resolve()), heldout_fraction=0.0)
            rows = ingest_data.execute(read, NoInputs(), Store(Path(scratch))).artifact
            for first_token, options in FIRST_TOKENS.items():
                read_with = ScanConfig(calibration=options).calibration  # type: ignore[arg-type]
                counts = read_with.num_samples, read_with.max_tokens
                samples = calibration_samples(folder, rows, *counts, prepend_bos=read_with.prepend_bos)
                for kind in get_args(CountedTokens):
                    config = ScanConfig(metrics=[*COSINE_METRICS], calibration={"tokens": kind, **options})  # type: ignore[arg-type]
                    tables = ScanRun(config, whole, samples).window_scores()
                    scores |= {Setting(name, kind, first_token, metric): table for metric, table in tables.items()}
    return scores


def summary(chosen: Mapping[Setting, list[Window]], measured: Measured) -> None:
    """Print each setting's means over the sizes, and by how much they differ from the default's, on the same texts."""
    windows = dict(chosen)
    for setting, some in chosen.items():
        together = setting._replace(data=ALL_SETS)
        windows[together] = [*(windows.get(together, [])), *some]
    means = {
        setting: {name: mean([measured[window][name] for window in some]) for name in (WIKITEXT, GSM8K)}
        for setting, some in windows.items()
    }
    minus = [f"{measure} minus default's" for measure in ("ln ratio", *MEASURES[1:])]
    header("mean over sizes, chosen on", [f"ln {MEASURES[0]}", *MEASURES[1:], *minus])
    for setting, measured_figures in means.items():
        default = means[setting.default]
        is_same = windows[setting] == windows[setting.default]
        apart = ["same windows", "", ""] if is_same else cells(measured_figures, default, is_log=True)
        print(f"| {' | '.join([*setting, *cells(measured_figures, is_log=True), *apart])} |")


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
