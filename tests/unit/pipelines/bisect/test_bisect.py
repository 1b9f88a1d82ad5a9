"""`attar bisect` on stored models: a cut chain, one of whose models gc removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attar.pipelines.bisect.bisection import bisect_chain, task_rows
from attar.pipelines.bisect.chain import Lineage, Link
from attar.pipelines.cli.main import app
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.lineage import trace
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder, run_records
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.databases import copy_database

NUM_TOKENS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[ModelArtifact]]:
    """An original of six blocks, and four cuts of one block each, in a store that no test changes."""
    store = Store(tmp_path_factory.mktemp("chain"))
    source = IngestModelConfig(source="random:llama?num_blocks=6&hidden_size=64&seed=3")
    models = [ingest_model.execute(source, NoInputs(), store).artifact]
    for _ in range(4):
        models.append(prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=models[-1]), store).artifact)
    return store, models


@pytest.fixture
def chain(store: Store, made: tuple[Store, list[ModelArtifact]]) -> list[ModelArtifact]:
    """That chain in the test's own store."""
    shutil.copytree(made[0].root, store.root, dirs_exist_ok=True)
    links = [(made[0].manifest(model)["stage"], model.key) for model in made[1]]
    return [store.load(stage, key) for stage, key in links]  # type: ignore[misc]


def record(store: Store, models: list[ModelArtifact]) -> RunRecord:
    """The run that made them, as a recipe's run keeps it."""
    nodes = {}
    for index, model in enumerate(models):
        manifest = store.manifest(model)
        inputs = {"model": [f"model{index - 1}"]} if index else {}
        nodes[f"model{index}"] = NodeRecord(manifest["stage"], manifest["config"], inputs, "Completed", model.key)
    run = RunRecord(new_run_folder(store.root, "cuts"), "cuts", "0", nodes)
    run.close()
    return run


def last_link(store: Store, models: list[ModelArtifact]) -> Link:
    return Link(store.manifest(models[-1])["stage"], models[-1].key)


def test_the_stage_that_changed_a_prompt_is_named_with_both_texts(store: Store, chain: list[ModelArtifact]) -> None:
    made = bisect_chain(Lineage(store), last_link(store, chain), [Row("prompt", "What is left?")], NUM_TOKENS)
    assert [link.key for link in made.chain] == [model.key for model in chain]
    [change] = made.changes
    assert change.stage.stage == "prune" and change.before.text != change.after.text
    # what each wrote greedily is what it finds likeliest, token by token
    index = made.chain.index(change.stage)
    assert index >= 1 and made.num_asked <= 2 + 2
    for tokens, side in ((change.before_tokens, "before"), (change.after_tokens, "after")):
        assert tokens and all(0.0 <= getattr(token, side) <= 1.0 for token in tokens)
    first = next(
        i for i, (a, b) in enumerate(zip(change.before_tokens, change.after_tokens, strict=False)) if a.token != b.token
    )
    assert change.before_tokens[first].before > change.after_tokens[first].before  # type: ignore[operator]
    assert change.after_tokens[first].after > change.before_tokens[first].after  # type: ignore[operator]


def test_a_model_that_writes_nothing_is_not_asked(store: Store) -> None:
    config = IngestModelConfig(source="random:bert?num_blocks=3&hidden_size=32", model={"kind": "encoder"})
    whole = ingest_model.execute(config, NoInputs(), store).artifact
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=whole), store).artifact
    with pytest.raises(
        ValueError, match="text that models write, and this is of kind encoder; accepted: the form model or onnx"
    ):
        bisect_chain(Lineage(store), Link("prune", cut.key), [Row("prompt", "What is left?")], NUM_TOKENS)


def test_a_model_that_is_gone_is_built_again_when_it_is_asked(store: Store, chain: list[ModelArtifact]) -> None:
    rows = [Row("prompt", "What is left?")]
    whole = bisect_chain(Lineage(store), last_link(store, chain), rows, NUM_TOKENS)
    run = record(store, chain)
    for model in chain[1:4]:
        store.remove(model)
    lineage = Lineage(store, run_records(store.root)[::-1])
    again = bisect_chain(lineage, last_link(store, chain), rows, NUM_TOKENS)
    assert again.as_dict() == whole.as_dict()
    middle = again.chain[2]
    assert store.holds(middle.stage, middle.key)
    store.remove(store.load(middle.stage, middle.key))
    with pytest.raises(ValueError, match="prune .* is gone; `attar run cuts --until model2` builds it again"):
        Lineage(store, [run], may_rebuild=False).artifact(middle)


def test_parents_that_nobody_can_rebuild_are_told_in_one_line(store: Store, chain: list[ModelArtifact]) -> None:
    store.remove(chain[2])
    with pytest.raises(ValueError, match="^prune [0-9a-f]{12} is gone and no run on this machine says how it was made"):
        bisect_chain(Lineage(store), last_link(store, chain), [Row("prompt", "Why?")], NUM_TOKENS)
    assert not store.holds("prune", chain[2].key)
    run = record(store, chain[:2])
    run.nodes["model1"].config = {**run.nodes["model1"].config, "blocks": [2]}
    store.remove(chain[1])
    with pytest.raises(ValueError, match="cannot be rebuilt as it was"):
        Lineage(store, [run]).artifact(Link("prune", chain[1].key))
    with pytest.raises(ValueError, match="made from no other model"):
        bisect_chain(Lineage(store), Link("ingest_model", chain[0].key), [Row("prompt", "Why?")], NUM_TOKENS)


@pytest.fixture
def choices(store: Store, tmp_path: Path) -> DatasetArtifact:
    path = tmp_path / "choices.jsonl"
    rows = [{"question": f"Is {i} even?", "choices": ["yes, it is", "no", "ask"], "answer": i % 3} for i in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0)
    return ingest_data.execute(config, NoInputs(), store).artifact


def test_a_tasks_questions_are_counted_by_stage(
    store: Store, chain: list[ModelArtifact], choices: DatasetArtifact
) -> None:
    scores = {
        index: evaluate.execute(
            EvaluateConfig(num_samples=0, timing={"num_prompt_tokens": 16}, precision="float32"),
            EvaluateInputs(model=chain[index], tasks=(choices,)),
            store,
        ).artifact
        for index in (0, 4)
    }
    rows = task_rows([trace(store, scores[4])], "choices", store)
    assert rows is not None and len(rows) == 24 and task_rows([trace(store, scores[4])], "nothing", store) is None
    made = bisect_chain(Lineage(store), last_link(store, chain), rows, NUM_TOKENS)
    rights = [json.loads((some.path / "evaluation.json").read_text())["right"]["choices"] for some in scores.values()]
    num_flips = sum(first != last for first, last in zip(*rights, strict=True))
    table = made.by_stage()
    assert len(made.changes) == num_flips == sum(row["lost"] + row["won"] for row in table)
    assert sum(row["lost"] - row["won"] for row in table) == sum(rights[0]) - sum(rights[1])


def test_the_command_prints_what_changed(store: Store, chain: list[ModelArtifact], mlflow_database: Path) -> None:
    copy_database(mlflow_database, store.root / "mlflow.db")
    arguments = ["bisect", "What is left?", "--of", chain[-1].key[:16], "--max-new-tokens", str(NUM_TOKENS)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert " > prune " in shown.stdout and "changed the answer to: What is left?" in shown.stdout
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert printed["num_questions"] == 1 and printed["changes"][0]["stage"] in printed["chain"]
    held = set(store.root.rglob("*"))
    for spec, message in (
        (
            "nobody",
            "nobody: no model of that name is registered; there are: none; nor does the key of a stored model begin so",
        ),
        (
            "no/one",
            "'no/one' is no registered model; accepted: NAME, NAME@ALIAS, NAME/VERSION; nor does the key of a stored model begin so",
        ),
    ):
        wrong = CliRunner().invoke(app, ["bisect", "x", "--of", spec])
        assert (wrong.exit_code, wrong.stderr) == (2, f"attar: {message}\n")
    assert set(store.root.rglob("*")) == held, "nothing is written"
