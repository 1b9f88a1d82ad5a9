"""Sources of one recipe that hold the same rows are told, by content and with the count; generated sets of neighbouring seeds share none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from attar.pipelines.run.overlaps import Overlaps
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.records.record_sources import task_seed


def dataset(folder: Path, questions: list[str], **fields: object) -> DatasetArtifact:
    folder.mkdir()
    write_rows(
        folder / "rows.jsonl",
        [Row(f"{index}", question=text).with_changes(**fields) for index, text in enumerate(questions)],
    )
    return DatasetArtifact(folder, {}, folder.name, folder.name)


def test_shared_rows_are_counted_whatever_the_file_is_called(tmp_path: Path) -> None:
    overlaps = Overlaps()
    assert overlaps.add("train", "ingest_data", dataset(tmp_path / "a", ["p", "q", "r"])) == []
    assert overlaps.add("other", "ingest_data", dataset(tmp_path / "b", ["x", "y"], answer="z")) == []
    [line] = overlaps.add("test", "ingest_data", dataset(tmp_path / "c", ["q", "r", "s", "t"], answer="another"))
    assert line.startswith("data sets train and test share 2 of 3 questions or texts")
    assert overlaps.add("curated", "curate", dataset(tmp_path / "d", ["p", "q"])) == [], (
        "what is made of a source may hold its rows"
    )
    lines = overlaps.add("same", "ingest_data", dataset(tmp_path / "e", ["p", "q", "r"]))
    assert [line.partition(" questions")[0] for line in lines] == [
        "data sets train and same share 3 of 3",
        "data sets test and same share 2 of 3",
    ]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, -1), (7, 8)])
def test_generated_sets_of_neighbouring_seeds_share_no_task(store: Store, first: int, second: int) -> None:
    """reasoning-gym draws item i with seed + i: the seeds 0 and 1 shared 39 of 40 before."""

    def questions(seed: int) -> list[str]:
        config = IngestDataConfig(source="reasoning_gym:gsm_symbolic", max_rows=40, seed=seed)
        return [
            row.question
            for row in read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")
        ]

    drawn, other = questions(first), questions(second)
    assert len({*drawn} & {*other}) <= 2 and drawn == questions(first)


def test_seeds_of_sets_lie_far_apart() -> None:
    seeds = sorted(task_seed(seed, name, repeat) for seed in range(100) for name in ("a", "b") for repeat in (0, 1))
    assert len({*seeds}) == 400 and seeds[0] >= 0 and seeds[-1] < 2**31
    # 400 draws among 2**31 lie closer than 1,000 to a neighbour with chance 400 * 1000 / 2**31 each
    assert sum(later - earlier < 1000 for earlier, later in pairwise(seeds)) <= 2
