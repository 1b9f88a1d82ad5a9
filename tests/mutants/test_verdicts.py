"""Verdicts on mutants outlive a checkout: they are handed to the next sitting, and a changed function's are not."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "mutation"
SOURCE, MODULE = "attar/compressors/merge/ties.py", "attar.compressors.merge.ties"
EARLIER = {SOURCE: {"x_first": {"hash": "1.a1", "commit": "c0", "verdicts": "ks?tn"}}}


@pytest.fixture
def verdicts() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as changed:
        changed.syspath_prepend(str(FOLDER))
        yield importlib.import_module("verdicts")
    sys.modules.pop("verdicts", None)


def codes(folder: Path) -> dict[str, Any]:
    keys = json.loads((folder / f"{SOURCE}.meta").read_text())["exit_code_by_key"]
    return {key.removeprefix(f"{MODULE}."): code for key, code in keys.items()}


def test_another_checkout_goes_on_from_the_file(verdicts: ModuleType, tmp_path: Path) -> None:
    verdicts.restore(tmp_path, EARLIER)
    assert codes(tmp_path) == {
        "x_first__mutmut_1": 1, "x_first__mutmut_2": 0, "x_first__mutmut_3": None, "x_first__mutmut_4": 36, "x_first__mutmut_5": None,
    }  # fmt: skip
    again = verdicts.collected(tmp_path, EARLIER, "c1")
    assert again[SOURCE]["x_first"] == {"hash": "1.a1", "commit": "c1", "verdicts": "ks?t?"}
    assert verdicts.collected(tmp_path, again, "c2") == again, "nothing new: the commit stays that of the verdicts"


def test_a_changed_function_starts_anew_and_own_verdicts_stand(verdicts: ModuleType, tmp_path: Path) -> None:
    verdicts.restore(tmp_path, {SOURCE: {"x_first": {"hash": "1.b2", "commit": "c0", "verdicts": "sk"}}})
    verdicts.restore(tmp_path, EARLIER)
    assert codes(tmp_path) == {"x_first__mutmut_1": 0, "x_first__mutmut_2": 1}


def test_numbers_of_other_rules_mean_other_mutants(verdicts: ModuleType, tmp_path: Path) -> None:
    verdicts.restore(tmp_path, {SOURCE: {"x_first": {"hash": "0.a1", "commit": "c0", "verdicts": "kk"}}})
    assert codes(tmp_path) == {}


def test_what_lived_is_run_again_when_it_is_wanted(verdicts: ModuleType, tmp_path: Path) -> None:
    verdicts.restore(tmp_path, EARLIER)
    verdicts.restore(tmp_path, {}, ["attar.compressors.merge.tie"], forget_survivors=True)
    assert codes(tmp_path)["x_first__mutmut_2"] == 0, "another module's"
    verdicts.restore(tmp_path, {}, [MODULE], forget_survivors=True)
    assert verdicts.undecided(tmp_path, [MODULE]) == [f"{MODULE}.x_first__mutmut_{number}" for number in (2, 3, 5)]
    assert verdicts.undecided(tmp_path, ["attar.other"]) == ["attar.other.*"]
    assert verdicts.undecided(tmp_path, []) == []


def test_what_no_test_reaches_counts_as_living(verdicts: ModuleType, tmp_path: Path) -> None:
    counts = verdicts.figures(EARLIER)[MODULE]
    assert (counts["killed"], counts["survived"], counts["no_test"], counts["not_run"]) == (2, 2, 1, 1)
    assert counts["killed_share"] == 0.5
    assert verdicts.survivors(EARLIER) == [f"{MODULE}.x_first__mutmut_2", f"{MODULE}.x_first__mutmut_5"]
    path = tmp_path / "verdicts.json"
    verdicts.write_verdicts(path, EARLIER)
    assert verdicts.read_verdicts(path) == EARLIER
    assert verdicts.read_verdicts(tmp_path / "none.json") == {}


def test_a_sample_is_the_beginning_of_one_order(verdicts: ModuleType, tmp_path: Path) -> None:
    names = [f"{MODULE}.x_first{verdicts.MARK}{number}" for number in range(1, 6)]
    ordered = verdicts.in_random_order(names)
    assert sorted(ordered) == names and ordered == verdicts.in_random_order(reversed(names))
    assert [name for name in verdicts.in_random_order([*names, "another"]) if name != "another"] == ordered
    verdicts.restore(tmp_path, EARLIER)
    open_names = {names[2], names[4]}
    for size in range(1, 6):
        assert verdicts.sampled(tmp_path, size) == [name for name in ordered[:size] if name in open_names]


def test_a_sample_counts_as_far_as_it_has_no_gap(verdicts: ModuleType) -> None:
    names = [f"{MODULE}.x_first{verdicts.MARK}{number}" for number in range(1, 6)]
    letters = dict(zip(names, "ks?tn", strict=True))
    expected = []
    for name in verdicts.in_random_order(names):
        if letters[name] == "?":
            break
        expected.append(letters[name] in "kt")
    assert verdicts.sample_verdicts(EARLIER) == expected
    whole = {SOURCE: {"x_first": {"hash": "1.a1", "commit": "c0", "verdicts": "kstkn"}}}
    assert sorted(verdicts.sample_verdicts(whole)) == [False, False, True, True, True]
    assert verdicts.sample_verdicts({}) == []
