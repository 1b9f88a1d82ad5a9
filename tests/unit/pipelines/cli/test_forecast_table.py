"""The plan as it is read: units, minutes, dashes for what is not known; and it waits for no library that it does not need."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from attar.pipelines.cli.forecast_table import UNKNOWN, minutes, plan_rows, plan_total, with_prefix
from attar.pipelines.recipe.plan import make_plan, with_seconds
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.rates import learn_rate
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import model_facts
from attar.stages.ingest.tiny_model import random_facts, random_model

# Each takes half a second to seconds of processor time, and a plan reads no model.
HEAVY = (
    "transformers",
    "scipy",
    "pandas",
    "onnx",
    "onnxruntime",
    "datasets",
    "peft",
    "lm_eval",
    "mlflow",
    "prefect",
    "optuna",
    "accelerate",
    "httpx",
)
# What a plan of `tiny` may take of a processor, and how often it is tried: other work on the machine makes it longer, nothing shorter.
MAX_CPU_SECONDS, NUM_TRIES = 3.0, 3


def test_a_plan_of_tiny_imports_no_heavy_library(tmp_path: Path) -> None:
    """Of 7.1 s of processor time 4.2 were imports that no plan needs; what is left is torch's own (1.6 s) and ours."""
    code = (
        "import sys; from pathlib import Path; from attar.pipelines.recipe.plan import make_plan; from attar.pipelines.recipe.whole import load_recipe;"
        f"from attar.registry.artifacts.store import Store; make_plan(load_recipe('tiny'), Store(Path({str(tmp_path)!r})));"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_plan_of_tiny_takes_less_than_three_seconds_of_processor_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar.pipelines", "plan", "tiny"]
    taken = []
    for _ in range(NUM_TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=os.environ | {"ATTAR_HOME": str(tmp_path)}, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < MAX_CPU_SECONDS, taken


@pytest.mark.parametrize(("num_blocks", "hidden_size"), [(4, 64), (1, 8), (3, 32), (2, 128)])
def test_a_random_llamas_facts_are_those_of_the_model(num_blocks: int, hidden_size: int) -> None:
    model, _ = random_model("llama", num_blocks=num_blocks, hidden_size=hidden_size)
    assert random_facts("llama", num_blocks=num_blocks, hidden_size=hidden_size) == dict(model_facts(model))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "-"),
        (1, "1.00"),
        (999.6, "1.00 k"),
        (1.2345e12, "1.23 T"),
        (12.3e9, "12.3 G"),
        (2.5e5, "250 k"),
        (4e18, "4,000 P"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert with_prefix(value) == text
    assert with_prefix(value, "B") == (text if text == UNKNOWN else text + ("B" if " " in text else " B"))


def test_minutes() -> None:
    assert [minutes(value) for value in (None, 0.0, 0.1, 7, 90, 3600)] == ["-", "0", "<0.01", "0.12", "1.50", "60.0"]


def test_the_plan_has_work_for_trainings_and_rewrites_and_dashes_for_the_rest(tmp_path: Path) -> None:
    for name in ("tiny", "demo"):
        plan = with_seconds(make_plan(load_recipe(name), Store(tmp_path)), tmp_path)
        work = {
            entry.node.name: entry
            for entry in plan
            if entry.node.stage.name in ("finetune", "self_data", "guide", "record")
        }
        assert len(work) >= 2 and all(entry.forecast.num_flops > 0 for entry in work.values()), name
        rows = {row["node"]: row for row in plan_rows(plan)}
        assert rows["prose"]["FLOPs"] == rows["prose"]["minutes"] == UNKNOWN
        assert "0.00" not in {value for row in rows.values() for value in row.values()}
    # each row for 4 epochs, at 200 tokens; forward and back, two FLOPs a parameter each, over a model without 6 of its 30 blocks
    text = (Path("stages/ingest/shipped") / "everyday.jsonl").read_text()
    num_rows = sum(1 for line in text.splitlines() if line.strip())
    student = next(entry for entry in plan if entry.node.name == "student")
    num_parameters = 134515008 - 106202880 * 6 // 30
    assert student.forecast.num_flops == pytest.approx(4 * num_parameters * 200 * 4 * num_rows, rel=0.01)


def test_minutes_come_from_what_this_machine_has_done(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("tiny"), Store(tmp_path))
    scan = next(entry for entry in plan if entry.node.name == "block_scan")
    assert "not known" in plan_total(with_seconds(plan, tmp_path))
    learn_rate(tmp_path, "scan", scan.forecast.num_flops, 0.0, 90.0)
    timed = with_seconds(plan, tmp_path)
    assert {row["node"]: row["minutes"] for row in plan_rows(timed)}["block_scan"] == "1.50"
    assert plan_total(timed).startswith("About 1.50 minutes for 1 of the 24 nodes to be built")
