"""Who is champion: verdicts, promotion, rollback and comparison on a real MLflow registry with weightless models."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.environment import attar_home
from registry.mlflow_home import open_client
from registry.model_registry import register_model
from registry.promotion import judge, link_version, make_champion, roll_back, turn_down
from registry.store import Store
from registry.versions import Version, compare_versions, find_version, read_version


def version(
    number: str, accuracy: float | None = None, perplexity: float | None = None, status: str = "passed"
) -> Version:
    numbers = {"model/accuracy": accuracy, "model/perplexity": perplexity}
    metrics = {name: value for name, value in numbers.items() if value is not None}
    return Version("m", number, (), {"validation_status": status}, metrics)


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        (version("2", 0.80), version("1", 0.80), ""),
        (version("2", 0.792), version("1", 0.80), ""),
        (version("2", 0.79), version("1", 0.80), "accuracy 0.79, the champion (version 1) has 0.8"),
        (version("2", 0.9, status="failed"), version("1", 0.80), "m version 2 has not passed the gate"),
        (version("2", 0.9, status="failed"), None, "m version 2 has not passed the gate"),
        (version("2", 0.1), None, ""),
        (version("2", None, 30.0), version("1", None, 29.9), ""),
        (version("2", None, 31.0), version("1", None, 29.9), "perplexity 31"),
        (version("2", None, 28.0), version("1", None, 29.9), ""),
        (version("2", None, float("nan")), version("1", None, 29.9), "perplexity nan"),
        (version("2", None, 30.0), version("1", 0.5), "neither accuracy nor perplexity was measured for both"),
        (version("1", 0.5), version("1", 0.5), ""),
    ],
)
def test_a_worse_model_is_worse_in_whichever_quality_both_measured(
    candidate: Version, champion: Version | None, reason: str
) -> None:
    verdict = judge(candidate, champion, 0.01)
    assert verdict.is_worse is bool(reason)
    assert reason in "; ".join(verdict.reasons)


@pytest.fixture
def three(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three versions of a model, the first one champion; each weighs one file."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ATTAR_MLFLOW_RUN_ID", raising=False)

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {}")

    numbers = []
    for index in range(3):
        made = register_model(
            "m", f"key{index}", write, metrics={}, params={}, scratch=tmp_path, is_champion=index == 0,
            tags={"validation_status": "passed", "attar.model_key": f"{index}" * 64},
        )  # fmt: skip
        numbers.append(made.version)
    return numbers


def aliases(name: str = "m") -> dict[str, str]:
    found = open_client(attar_home()).get_registered_model(name).aliases
    return {alias: str(number) for alias, number in found.items()}


def test_promotion_and_rollback_are_inverse(three: list[str]) -> None:
    first, second, third = three
    assert aliases() == {"candidate": third, "champion": first}
    former = make_champion("m", second, "better")
    assert former is not None and former.number == first
    assert aliases() == {"candidate": third, "champion": second, "previous": first}
    before = aliases()
    make_champion("m", second, "again")
    assert aliases() == before, "promoting the champion changes nothing"
    make_champion("m", third, "better still")
    assert aliases() == {"candidate": third, "champion": third, "previous": second}
    fallen, restored = roll_back("m", "slow")
    assert (fallen.number, restored.number) == (third, second)
    assert aliases() == {"candidate": third, "champion": second, "previous": first}
    roll_back("m", "slow too")
    assert aliases() == {"candidate": third, "champion": first}, "going back twice goes back two, never forward"
    with pytest.raises(ValueError, match=f"m has no previous version: version {first} stays champion"):
        roll_back("m", "once more")
    assert "rolled back: slow" in read_version(f"m/{third}").tags["attar.decision"]


def test_turning_down_leaves_the_aliases_and_a_note(three: list[str]) -> None:
    before = aliases()
    turn_down("m", three[1], "smells")
    assert aliases() == before
    assert read_version(f"m/{three[1]}").tags["attar.decision"].endswith("rejected: smells")


def test_links_are_added_and_never_overwritten(three: list[str], store: Store) -> None:
    link_version("m", three[1], {"attar.run": "first", "attar.recipe": ""}, store)
    link_version("m", three[1], {"attar.run": "second", "attar.recipe": "demo"}, store)
    tags = read_version(f"m/{three[1]}").tags
    assert (tags["attar.run"], tags["attar.recipe"]) == ("first", "demo")


def test_versions_are_named_three_ways_and_compared(three: list[str]) -> None:
    assert read_version("m").number == read_version("m@champion").number == read_version(f"m/{three[0]}").number
    assert find_version("m", "nobody") is None
    with pytest.raises(ValueError, match="nothing@champion|nothing"):
        read_version("nothing")
    rows = {row["what"]: row for row in compare_versions(read_version("m"), read_version("m@candidate"))}
    assert rows["version"] == {
        "what": "version",
        "first": f"{three[0]} @champion",
        "second": f"{three[2]} @candidate",
        "ratio": None,
    }
    assert rows["attar.model_key"]["first"] != rows["attar.model_key"]["second"]
    assert "validation_status" not in rows, "what is the same is not shown"
