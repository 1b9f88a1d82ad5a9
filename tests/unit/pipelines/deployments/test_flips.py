"""What a candidate answers otherwise than the champion: counted and told word for word, as far as the store knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.pipelines.deployments.flips import version_flips
from attar.pipelines.deployments.promote import report_of
from attar.registry.artifacts.handles import BehaviourArtifact, EvaluationArtifact
from attar.registry.artifacts.store import Slot, Store
from attar.registry.release.figures import KEYS_TAG
from attar.registry.release.promotion import judge
from attar.registry.release.versions import Version
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.answers.kept_answers import CHOSEN, NOT_KEPT, write_answers

ROWS = [Row(f"sum {index}", question=f"What is {index} and 2?", answer=str(index + 2)) for index in range(4)]
COLOR = Row("color", question="Which is red?", choices=("a rose", "a sea"), answer_index=0)
IDS = {"sums": [f"id{index}" for index in range(4)], "colors": ["id"]}


def evaluated(store: Store, key: str, right: list[float], is_red: float, texts: bool = True) -> str:
    """An evaluation of four sums and a choice."""

    def build(work: Path) -> EvaluationArtifact:
        rights = {"sums": right, "colors": [is_red]}
        content = {"right": rights, "question_ids": IDS, "asked": {}}
        (work / "content" / "evaluation.json").write_text(json.dumps(content))
        if texts:
            sample = {
                row.question: {"question": row.question, "reference": row.answer, "answer": f"{key}: {row.answer}"}
                for row in ROWS
            }
            rows = {"sums": ROWS, "colors": [COLOR]}
            write_answers(work / "content", rows, IDS, rights, lambda row: sample[row.question])
        return EvaluationArtifact.at(work / "content", accuracy=0.5)

    return stored(store, "evaluate", EvaluationArtifact, key, build)


def checked(store: Store, key: str, flips: list[dict[str, str]], num_cases: int = 9) -> str:
    """A check of behaviour with these flips against the original."""

    def build(work: Path) -> BehaviourArtifact:
        groups = {"refusals": {"num_cases": num_cases}}
        (work / "content" / "behaviour.json").write_text(json.dumps({"groups": groups}))
        (work / "content" / "flips.jsonl").write_text("".join(json.dumps(flip) + "\n" for flip in flips))
        return BehaviourArtifact.at(work / "content", model_fingerprint=key, original_fingerprint="o")

    return stored(store, "check_behaviour", BehaviourArtifact, key, build)


def stored(store: Store, stage: str, kind: Any, key: str, build: Any) -> str:
    slot = Slot(stage=stage, version=1, config={}, inputs={})
    return store.get_or_build(slot, kind, key, build).artifact.key


def flip(kind: str, question: str) -> dict[str, str]:
    return {
        "group": "refusals", "flip": kind, "question": question, "reference": "",
        "original": "I will not.", "student": "Gladly.", "why": "no refusal",
    }  # fmt: skip


def version(number: str, **keys: str) -> Version:
    tags = {KEYS_TAG: json.dumps(keys), "validation_status": "passed"}
    return Version("small", number, (), tags, {"model/accuracy": 0.5})


@pytest.fixture
def pair(store: Store) -> tuple[Version, Version]:
    """The champion, and a candidate that lost two answers and won one."""
    champion = version("1", evaluation=evaluated(store, "c" * 64, [1, 1, 0, 1], 1))
    return champion, version("2", evaluation=evaluated(store, "d" * 64, [1, 0, 1, 1], 0))


def test_lost_and_won_answers_are_told_word_for_word(store: Store, pair: tuple[Version, Version]) -> None:
    flips = version_flips(pair[1], pair[0], store)
    assert str(flips) == "2 answers lost, 1 won against the champion, of 5"
    assert [(row["task"], row["flip"]) for row in flips.rows] == [
        ("colors", "lost"),
        ("sums", "lost"),
        ("sums", "won"),
    ]
    assert flips.rows[0]["candidate"] == CHOSEN and flips.rows[0]["champion"] == "a rose"
    assert flips.rows[1] == {
        "task": "sums", "flip": "lost", "question": "What is 1 and 2?", "reference": "3",
        "champion": f"{'c' * 64}: 3", "candidate": f"{'d' * 64}: 3",
    }  # fmt: skip
    shown = report_of(judge(pair[1], pair[0], 0.01), flips)
    assert f"**{flips}**" in shown and "- won, sums: What is 2 and 2? Champion: " in shown


def test_the_check_of_behaviour_is_compared_case_by_case(store: Store, pair: tuple[Version, Version]) -> None:
    """Against the original the champion lost a and won b, the candidate lost a and c."""
    before = checked(store, "e" * 64, [flip("lost", "a"), flip("won", "b")])
    after = checked(store, "f" * 64, [flip("lost", "a"), flip("lost", "c")])
    champion = version("1", **pair[0].keys, behaviour=before)
    candidate = version("2", **pair[1].keys, behaviour=after)
    rows = version_flips(candidate, champion, store).rows
    behaviours = {row["question"]: row for row in rows if row["task"] == "behaviour: refusals"}
    assert {name: row["flip"] for name, row in behaviours.items()} == {"b": "lost", "c": "lost"}
    assert behaviours["c"]["champion"] == "as the original: I will not." and behaviours["c"]["candidate"] == "Gladly."
    assert behaviours["b"]["champion"] == "Gladly." and behaviours["b"]["candidate"] == "as the original: I will not."
    other = checked(store, "1" * 64, [flip("lost", "c")], num_cases=8)
    candidate = version("2", **pair[1].keys, behaviour=other)
    assert not [row for row in version_flips(candidate, champion, store).rows if "behaviour" in row["task"]]


def test_what_cannot_be_compared_is_said(store: Store, pair: tuple[Version, Version]) -> None:
    older = version("1", evaluation=evaluated(store, "2" * 64, [1, 1, 0, 1], 1, texts=False))
    [lost, *_] = [row for row in version_flips(pair[1], older, store).rows if row["task"] == "sums"]
    assert lost["champion"] == NOT_KEPT and lost["question"] == "What is 1 and 2?", (
        "an evaluation of before kept no texts"
    )
    gone = version_flips(pair[1], version("1", evaluation="9" * 64), store)
    assert str(gone) == "an evaluation is gone from this machine's store: no answer can be compared" and not gone.rows
    assert str(version_flips(pair[1], None, store)) == ""
