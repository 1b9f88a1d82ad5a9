"""Questions in random blocks: asked until the verdict is sure, each once, and of every task its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from pydantic import ValidationError

from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.blocks import ALL_ASKED, GIVEN_UP, Answer, Blocks, ask_in_blocks
from attar.stages.evaluate.config import EvaluateConfig, StopConfig
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.question_pairs import question_ids
from tests.simulated_nights import BLOCK, nights, sequential

CHECK = {"measure": "accuracy_drop", "limit": 0.1}
ROWS = {
    "facts": [Row(f"f{index}", f"Fact {index}?", "yes") for index in range(301)],
    "sums": [Row(f"s{index}", f"Sum {index}?", "2") for index in range(100)],
}
BASELINE = {
    "question_ids": {name: question_ids(some) for name, some in ROWS.items()},
    "right": {name: [1.0] * len(some) for name, some in ROWS.items()},
}


def asked_by(answers: Mapping[str, float], seen: list[str]) -> Answer:
    """A candidate that gets so large a share of each task right, evenly."""

    def answer(block: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
        seen.extend(row.id for some in block.values() for row in some)
        return {
            name: [float(int(row.id[1:]) % 20 < 20 * answers[name]) for row in some] for name, some in block.items()
        }

    return answer


def run(answers: Mapping[str, float], rows: Mapping[str, Sequence[Row]] = ROWS, **changes) -> tuple[dict, list[str]]:
    seen: list[str] = []
    stop = StopConfig(**{"checks": [CHECK], **changes})
    return ask_in_blocks(stop, Blocks.of(rows, BASELINE, "seed"), asked_by(answers, seen)), seen


def test_a_candidate_that_lost_nothing_is_sure_soon_and_so_is_a_bad_one() -> None:
    good, seen = run({"facts": 1.0, "sums": 1.0})
    assert good["ended"] == "surely passed" and good["num_asked"] == len(seen) < 100
    assert good["checks"][0]["verdict"] == "passed" and good["checks"][0]["high"] <= 0.1
    bad, _ = run({"facts": 0.5, "sums": 0.5})
    assert bad["ended"] == "surely failed" and bad["num_asked"] < 100


def test_on_the_limit_it_is_given_up_or_everything_is_asked() -> None:
    limit, seen = run({"facts": 0.9, "sums": 0.9})
    assert limit["ended"] in (GIVEN_UP, ALL_ASKED) and limit["checks"][0]["verdict"] == "too few questions"
    few, seen = run({"facts": 1.0, "sums": 1.0}, {"facts": ROWS["facts"][:7], "sums": ROWS["sums"][:2]}, block_size=4)
    assert few["ended"] == ALL_ASKED and sorted(seen) == sorted({*seen}) and len(seen) == 9


def test_tasks_have_equal_chances_until_one_is_out_and_the_order_is_random() -> None:
    blocks = Blocks.of(ROWS, BASELINE, "seed")
    assert blocks.num_questions == 401 and blocks.order.count("sums") == 100
    drawn = blocks.order[: blocks.num_drawn]
    assert 150 < len(drawn) < 250 and drawn.count("sums") == 100 and abs(drawn.count("facts") - 100) < 45
    assert "sums" not in blocks.order[blocks.num_drawn :]
    assert blocks.ids["facts"] != BASELINE["question_ids"]["facts"]
    assert blocks.ids != Blocks.of(ROWS, BASELINE, "another").ids


def test_tasks_count_alike_whatever_their_size() -> None:
    """Nothing lost in the large task and half in the small one is a quarter of the accuracy, not an eighth."""
    blocks = Blocks.of(ROWS, BASELINE, "seed")
    for name, some in blocks.rows.items():
        blocks.right[name] = [float(name == "facts" or index % 2) for index in range(len(some))]
    whole = blocks.evidence(GateCheck(**CHECK))
    assert whole.num_units == blocks.num_drawn and whole.value == pytest.approx(0.25, abs=0.06)
    assert blocks.evidence(GateCheck(**CHECK, data="facts")).value == 0.0


def test_a_check_of_one_task_is_of_its_questions_alone() -> None:
    only, _ = run({"facts": 1.0, "sums": 0.0}, checks=[{**CHECK, "data": "facts"}])
    assert only["ended"] == "surely passed"


def test_questions_that_the_original_was_not_asked_are_refused() -> None:
    strange = {"facts": [*ROWS["facts"], Row("x", "New?", "yes")]}
    with pytest.raises(ValueError, match="baseline was not asked 1 of the 302 questions of task 'facts'"):
        Blocks.of(strange, BASELINE, "seed")
    with pytest.raises(ValueError, match="stop check accuracy_drop: 'fact' was not measured. Did you mean 'facts'?"):
        run({"facts": 1.0, "sums": 1.0}, checks=[{**CHECK, "data": "fact"}])


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({"checks": []}, "at least 1 item"),
        ({"checks": [{"measure": "kl_nats", "limit": 0.3}]}, "kl_nats is not asked question by question"),
        ({"checks": [CHECK], "level": 0.0}, "greater than 0"),
        ({"checks": [CHECK], "level": 1.0}, "less than 0.5"),
    ],
)
def test_a_stop_that_means_nothing_is_refused(stop: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig(stop=stop)


def test_a_night_is_what_the_simulation_of_thousands_simulates() -> None:
    """Twenty nights asked block by block end where `test_betting` says, all at once."""
    drops = nights(0.05, 0.2, 120, seed=11)[:20]
    passed, num_asked = sequential(drops)
    rows = {"facts": ROWS["facts"][:120]}
    for night, drop in enumerate(drops):
        blocks = Blocks.of(rows, BASELINE, f"night {night}")
        lost = dict(zip((row.id for row in blocks.rows["facts"]), drop, strict=True))
        # the original was wrong where the candidate wins an answer
        blocks.original["facts"] = [float(value >= 0) for value in drop]
        made = ask_in_blocks(
            StopConfig(checks=[CHECK], block_size=BLOCK),
            blocks,
            lambda block, lost=lost: {name: [float(lost[row.id] <= 0) for row in some] for name, some in block.items()},
        )
        assert made["num_asked"] == num_asked[night]
        assert (made["ended"] == "surely passed") == passed[night]
