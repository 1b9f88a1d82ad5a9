"""What a notebook and a prompt show of a recipe, a plan, a run and a comparison; and what they show of a mistake."""

from __future__ import annotations

import pytest

import attar
from attar.pipelines.recipe.notebook_table import html_table, text_table
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder
from tests.evaluations import recorded_run


@pytest.fixture
def runs(store: Store) -> list[attar.Run]:
    first = recorded_run(store, "cut", blocks=[1], right=[1.0, 1.0, 0.0, 1.0] * 5)
    second = recorded_run(store, "cut", blocks=[2], right=[1.0, 0.0, 0.0, 1.0] * 5)
    return [attar.Run(record, store) for record in (first, second)]


def test_a_recipe_shows_its_nodes() -> None:
    recipe = attar.load_recipe("tiny").until("pruned")
    assert "block_scan" in repr(recipe) and "num_samples: 8" in repr(recipe)
    page = recipe._repr_html_()
    assert page.count("<tr>") == 5 and "model: original" in page


def test_a_plan_shows_states_and_what_it_costs(store: Store) -> None:
    plan = attar.plan("tiny", until="pruned", store=store)
    assert [row["state"] for row in plan.as_dict()] == ["miss", "miss", "waiting", "waiting"]
    for shown in (repr(plan), plan._repr_html_()):
        assert "Plan of tiny" in shown and "block_scan" in shown and "4 nodes" in shown


def test_a_run_shows_figures_with_intervals_and_nodes(runs: list[attar.Run]) -> None:
    for shown in (repr(runs[0]), runs[0]._repr_html_()):
        assert f"Run {runs[0].id}: done" in shown
        assert "75.0 [" in shown  # accuracy in per cent
        assert "Completed" in shown
    assert runs[0]["scores"].kind == "evaluation"
    assert list(runs[0]) == ["scores"]
    with pytest.raises(KeyError, match="it keeps scores"):
        runs[0]["smaller"]


def test_a_comparison_shows_a_ratio_with_its_interval(runs: list[attar.Run]) -> None:
    comparison = attar.compare(*runs)
    [row] = [row for row in comparison.rows if row["figure"] == "accuracy"]
    assert row["first"].startswith("0.75 [") and row["second"].startswith("0.5 [")
    assert row["second / first"].startswith("0.667x [") and row["on"] == "20 questions"
    for shown in (repr(comparison), comparison._repr_html_()):
        assert "0.667x [" in shown and "95% intervals" in shown


def test_a_run_is_its_own_equal(runs: list[attar.Run]) -> None:
    """The law before the number: every ratio of a run to itself is 1, within its own interval."""
    comparison = attar.compare(runs[0], runs[0])
    assert comparison.rows
    assert all(row["second / first"].startswith("1.000x") for row in comparison.rows)


def test_a_failed_run_says_which_node_and_why(store: Store) -> None:
    nodes = {"cut": NodeRecord("prune", {}, {}, state="Failed", cause="no such block")}
    record = RunRecord(new_run_folder(store.root, "broken"), "broken", "0", nodes)
    record.close()
    run = attar.load_run("latest", store=store)
    assert run.state == "failed" and "no such block" in repr(run)
    with pytest.raises(attar.AttarError, match=r"failed: node 'cut': no such block"):
        run.raise_for_failure()


def test_text_in_a_table_is_no_markup() -> None:
    page = html_table([{"<b>name</b>": "<script>"}], "a & b", "<i>")
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &amp; b" in page and "<i>" not in page


def test_a_table_in_text_is_aligned() -> None:
    assert text_table([{"a": "long", "b": 1.5, "none": None}, {"a": "x", "b": 22}]) == "a     b\nlong  1.5\nx     22"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attar.load_run("2031"), "run '2031': nothing has been run under"),
        (lambda: attar.plan("tinny"), "recipe 'tinny': no such file or shipped recipe. Did you mean 'tiny'?"),
        (lambda: attar.load_recipe("no/where.yaml"), "no such file or shipped recipe."),
        (lambda: attar.run("tiny", overrides=["pruned.config.num_bloks=1"]), "config.num_bloks: unknown field. Did you mean 'num_blocks'?"),
        (lambda: attar.compare("small@champion", "latest"), "compare takes two runs or two registered versions"),
        (lambda: attar.compare("2030", "2031"), "nothing has been run under"),
        (lambda: attar.node("prunn"), "unknown stage. Did you mean 'prune'?"),
        (lambda: attar.Recipe.build("mine", {"a": {"stage": "prune", "config": {"blocks": [1]}}}), "node 'a', inputs.model: missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_in_a_notebook(call, message: str, store: Store) -> None:
    with pytest.raises((attar.AttarError, attar.RecipeError)) as refused:
        call()
    [line] = refused.value._render_traceback_()
    assert line.startswith("attar: ") and message in line and "\n" not in line
