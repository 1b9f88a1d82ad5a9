"""The search of merge parameters: judged on development rows alone, with a table, and continued after an interruption."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.registry.tracking.mlflow_home import open_client
from attar.registry.tracking.runs import Tracker
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.merge.config import MergeConfig, MergeInputs, SearchConfig
from attar.stages.merge.search import dev_rows
from attar.stages.merge.stage import merge
from attar.stages.runtime.progress import listen
from tests.databases import copy_database
from tests.stages.merge.students import two_students

SCALES = [0.0, 1.0, 40.0]


@pytest.fixture(scope="module")
def students(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> tuple[AdapterArtifact, AdapterArtifact]:
    return two_students(shared_store, model, questions, num_epochs=4)


def config(**search: object) -> MergeConfig:
    return MergeConfig(
        method="task_arithmetic",
        params={"weights": [0.5, 0.5]},
        search={"grid": {"scale": SCALES}, "precision": "float32", **search},  # type: ignore[arg-type]
    )


def mean_loss(artifact: ModelArtifact, data: DatasetArtifact) -> float:
    """Nats a token of the reference answers, one row at a time."""
    loaded, tokenizer = load_model(artifact.path, "float32"), load_tokenizer(artifact.path)
    total, count = 0.0, 0
    for row in dev_rows(SearchConfig(grid={"x": [1]}), [data]):
        prompt, answer = chat_prompt(tokenizer, row.question), answer_tokens(tokenizer, row.answer)
        with torch.no_grad():
            logprobs = loaded(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        total -= float(logprobs[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None]).sum())
        count += len(answer)
    return total / count


def test_the_best_trial_is_what_is_merged_and_its_loss_is_the_models(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, students: tuple
) -> None:
    inputs = MergeInputs(base=model, students=students, dev=(questions,))
    merged = merge.execute(config(), inputs, store).artifact
    with (merged.path / "records" / "trials.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["scale"]) for row in table] == SCALES
    losses = [float(row["loss"]) for row in table]
    assert [row["is_best"] for row in table] == ["0", "1", "0"], "trained beats untrained, and far too much of it"
    plain = MergeConfig(method="task_arithmetic", params={"weights": [0.5, 0.5], "scale": 1.0})
    expected = merge.execute(plain, MergeInputs(base=model, students=students), store).artifact
    weights = [(artifact.path / "model.safetensors").read_bytes() for artifact in (merged, expected)]
    assert weights[0] == weights[1]
    assert losses[1] == pytest.approx(mean_loss(expected, questions), abs=1e-4)
    assert losses[0] == pytest.approx(mean_loss(model, questions), abs=1e-4)
    metrics = [json.loads(line) for line in (merged.path / "records" / "metrics.jsonl").read_text().splitlines()]
    curve = [(metric["step"], metric["value"]) for metric in metrics if metric["name"] == "trial_loss_nats"]
    assert curve == list(enumerate(losses))
    assert next(metric["value"] for metric in metrics if metric["name"] == "search_best_trial") == 1


def test_the_trials_lie_in_the_nodes_mlflow_run(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    students: tuple,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_database: Path,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_database(mlflow_database, store.root / "mlflow.db")
    inputs = MergeInputs(base=model, students=students, dev=(questions,))
    merged = merge.execute(config(max_rows=2), inputs, store).artifact
    tracker = Tracker(store.root)
    tracker.start("merging", tags={}, config={})
    tracker.start_node("merged", config=config().model_dump(), tags={})
    tracker.end_node("merged", "FINISHED", merged)
    client = open_client(store.root)
    run_id = tracker.node_run_id("merged")
    assert [artifact.path for artifact in client.list_artifacts(run_id, "trials")] == ["trials/trials.csv"]
    assert client.get_run(run_id).data.params["search.grid.scale"] == str(SCALES)


def test_accuracy_can_decide(store: Store, model: ModelArtifact, students: tuple, tmp_path: Path) -> None:
    """Choices of which the base prefers one and the students, whole models here, the other."""
    rows = [
        {"question": f"Pick a letter, round {index}.", "answer": "A", "choices": ["A", "B"], "verifier": "choice"}
        for index in range(8)
    ]
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = IngestDataConfig(source=f"jsonl:{tmp_path / 'choices.jsonl'}", heldout_fraction=0.25)
    data = ingest_data.execute(source, NoInputs(), store).artifact
    merged = merge.execute(
        config(measure="accuracy", grid={"scale": [0.0, 1.0]}),
        MergeInputs(base=model, students=students, dev=(data,)),
        store,
    ).artifact
    with (merged.path / "records" / "trials.csv").open() as stream:
        table = list(csv.DictReader(stream))
    scores = [float(row["accuracy"]) for row in table]
    assert all(score * 6 == pytest.approx(round(score * 6)) for score in scores), "six rows decide"
    assert table[scores.index(max(scores))]["is_best"] == "1"


def test_an_interrupted_search_repeats_no_trial(
    tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact, students: tuple
) -> None:
    inputs = MergeInputs(base=model, students=students, dev=(questions,))
    notes: list[str] = []
    merge.run(config(), inputs, tmp_path)
    scores = json.loads((tmp_path / "trials.json").read_text())
    assert len(scores) == 3 and not (tmp_path / "trial").exists()
    table = (tmp_path / "content" / "records" / "trials.csv").read_text()
    (tmp_path / "trials.json").write_text(json.dumps(scores[:2]))
    with listen(lambda event: notes.append(str(event))):
        merge.run(config(), inputs, tmp_path)
    assert any("continuing at trial 3 of 3" in note for note in notes)
    assert sum("label='merging'" in note and "done=0.0" in note for note in notes) == 2, "one trial, and the result"
    assert (tmp_path / "content" / "records" / "trials.csv").read_text() == table


def test_dev_rows_are_never_those_of_an_evaluation(store: Store, questions: DatasetArtifact, tmp_path: Path) -> None:
    search = SearchConfig(grid={"scale": [1.0]})
    dev, questions_measured = dev_rows(search, [questions]), question_rows(questions)
    assert dev and questions_measured
    assert not {row.question for row in dev} & {row.question for row in questions_measured}
    rows = [{"question": "What is 1 plus 1?", "answer": "2"}] * 2 + [
        {"question": "What is 2 plus 2?", "answer": "4"}
    ] * 2
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def ingest(fraction: float) -> DatasetArtifact:
        source = IngestDataConfig(source=f"jsonl:{tmp_path / 'twice.jsonl'}", heldout_fraction=fraction)
        return ingest_data.execute(source, NoInputs(), store).artifact

    doubled = ingest(0.25)  # one copy of a question held out, its twin not
    assert {row.question for row in dev_rows(search, [doubled])}.isdisjoint(
        row.question for row in question_rows(doubled)
    )
    with pytest.raises(ValueError, match="dev: twice holds no rows out, so an evaluation reads all of them"):
        dev_rows(search, [ingest(0.0)])
    with pytest.raises(ValueError, match="dev: twice has no checkable question"):
        dev_rows(SearchConfig(grid={"scale": [1.0]}, measure="accuracy"), [doubled])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": {}}, "has no value to try"),
        ({"grid": {"scale": []}}, "scale has no value to try"),
        ({"grid": {"scale": list(range(300))}}, "300 combinations; accepted: at most 256"),
        ({"grid": {"scal": [1.0]}}, "has no parameter 'scal'. Did you mean 'scale'"),
        ({"grid": {"scale": [1.0, "x"]}}, "scale is 'x'"),
        ({"grid": {"weights": [[1.0, 0.0]]}}, "weights is in params and in search.grid"),
    ],
)
def test_a_wrong_search_is_refused_when_the_recipe_loads(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_search_and_dev_belong_together(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, students: tuple
) -> None:
    with pytest.raises(ValueError, match="search is given without the input `dev`"):
        merge.execute(config(), MergeInputs(base=model, students=students), store)
    inputs = MergeInputs(base=model, students=students, dev=(questions,))
    with pytest.raises(ValueError, match="the input `dev` is given without search"):
        merge.execute(MergeConfig(method="linear"), inputs, store)
    with pytest.raises(ValueError, match="method 'fold' has no parameters: there is nothing to search"):
        MergeConfig(search=SearchConfig(grid={"scale": [1.0]}))
