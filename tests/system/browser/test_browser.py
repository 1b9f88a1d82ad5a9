"""What a person sees in a real browser: Prefect's form, run and schedule, MLflow's runs and versions, the report on a phone."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from attar.pipelines.deployments.form import CompressForm
from tests.system.browser.browsing import PHONE, MlflowPages, PrefectPages, headless, open_page, picture
from tests.system.operated import Api, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NAME = "seen-small"
# What a person fills in, by the titles of the form. Many small steps: training takes longer than the two seconds after which it shows.
FILLED: dict[str, Any] = {
    "Model": "random:llama?num_blocks=4&hidden_size=32",
    "Registered name": NAME,
    "Questions and answers": "reasoning_gym:chain_sum",
    "Rows": 24,
    "Blocks to remove": 1,
    "Let the original rewrite the answers": False,
    "Epochs": 30,
    "Longest answer": 4,
    "Export to ONNX": False,
    "Gate: accuracy": 0,
    "Gate: perplexity": 5,
    "For experts": json.dumps(
        {
            "questions.config.verifier": "number",
            "block_scan.config.calibration.num_samples": 4,
            "student.config.schedule.tokens_per_step": 64,
            "student.config.compute.tokens_per_micro_batch": 64,
            "student.config.heldout.patience": 0,
        }
    ),
}
NODES = ("original", "questions", "prose", "block_scan", "smaller", "student", "healed", "scores", "release")
# Letters on a phone: 16 are a browser's own size, below 10 nobody reads.
SMALLEST_PIXELS = 10.0
LETTERS = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, text = node.textContent.trim();
    if (!text || !element.getClientRects().length) continue;
    const matrix = element instanceof SVGGraphicsElement ? element.getScreenCTM() : {a: 1, b: 0};
    const scale = Math.hypot(matrix.a, matrix.b);  // whatever way the text is turned
    found.push([scale * parseFloat(getComputedStyle(element).fontSize), text.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(chrome: Browser) -> Page:
    return open_page(chrome)


@pytest.fixture
def prefect(desk: Page, up: dict[str, Any]) -> PrefectPages:
    return PrefectPages(desk, up["prefect"])


@pytest.fixture
def mlflow(desk: Page, up: dict[str, Any]) -> MlflowPages:
    return MlflowPages(desk, up["mlflow"])


@pytest.fixture(scope="module")
def triggered(desk: Page, up: dict[str, Any], api: Api) -> str:
    """The id of a run that was filled in and submitted in the browser, once it is through."""
    prefect = PrefectPages(desk, up["prefect"])
    prefect.form("compress")
    for title, value in FILLED.items():
        prefect.fill(title, value)
    picture(desk, "prefect-form-filled", height=2300)
    prefect.submit()
    desk.get_by_role("button", name="View run").click()
    desk.get_by_role("tab", name="Task Runs").wait_for()
    match = re.search(r"flow-run/([0-9a-f-]{36})", desk.url)
    assert match is not None, desk.url
    api.wait(match[1], "COMPLETED")
    return match[1]


@pytest.fixture(scope="module")
def second(api: Api, triggered: str) -> str:
    """The id of another run, of the same name with two blocks removed, whose gate no model could pass."""
    form = api.ask(f"flow_runs/{triggered}")["parameters"]["form"]
    changed = {"num_blocks": 2, "num_epochs": 1, "max_perplexity_ratio": 0.01}
    run = api.trigger("compress", {"form": form | changed})
    api.wait(run, "COMPLETED")
    return run


def test_the_form_shows_every_field_with_its_description_in_its_place(prefect: PrefectPages) -> None:
    prefect.form("compress")
    fields = CompressForm.model_json_schema()["properties"].values()
    assert prefect.titles() == [field["title"] for field in fields]
    for field in fields:
        expect(prefect.field(field["title"]).get_by_text(field["description"], exact=True)).to_be_visible()
    prefect.field("What goes").locator("[aria-haspopup=listbox]").click()
    assert prefect.page.get_by_role("option").all_inner_texts() == ["blocks", "width", "nothing"]
    prefect.page.keyboard.press("Escape")
    picture(prefect.page, "prefect-form", height=2300)


def test_a_bad_value_is_refused_in_the_page_and_no_run_is_made(prefect: PrefectPages, api: Api) -> None:
    before = api.ask("flow_runs/count", {"flows": {"name": {"any_": ["compress"]}}})
    prefect.form("compress")
    prefect.fill("Blocks to remove", 500)
    prefect.submit()
    number = prefect.field("Blocks to remove").locator("input")
    assert "128" in number.evaluate("field => field.validationMessage"), "the browser names the bound"
    picture(prefect.page, "prefect-form-bound")
    prefect.fill("Blocks to remove", 1)
    prefect.fill("What goes", "width")
    prefect.fill("Width that stays", 1)
    prefect.submit()
    complaint = prefect.field("Width that stays").get_by_text("1 is greater than or equal to the maximum of 1")
    expect(complaint).to_be_visible()  # a rule across fields: the server's answer, at the field that broke it
    complaint.scroll_into_view_if_needed()
    picture(prefect.page, "prefect-form-refused")
    assert prefect.page.url.partition("?")[0].endswith("/run"), "the form is still there, with all that was filled in"
    assert api.ask("flow_runs/count", {"flows": {"name": {"any_": ["compress"]}}}) == before


def test_a_run_from_the_form_shows_its_graph_and_its_nodes(prefect: PrefectPages, triggered: str) -> None:
    prefect.run_page(triggered, "Task Runs")
    expect(prefect.page.get_by_text("Completed", exact=True).first).to_be_visible()
    for node in NODES:
        expect(prefect.page.get_by_role("link", name=node, exact=True)).to_have_count(1)
        prefect.page.mouse.wheel(0, 200)
    graph = prefect.page.locator("canvas").first
    until(lambda: green_share(graph.screenshot()) > 0.005, seconds=60)  # drawn a little later: bars of completed nodes
    picture(prefect.page, "prefect-run")


def test_progress_and_artifacts_of_a_run_show_what_they_say(prefect: PrefectPages, triggered: str, desk: Page) -> None:
    prefect.run_page(triggered, "Artifacts")
    for key in ("recipe", "before-after", "gate", "report"):
        expect(desk.get_by_role("tabpanel").get_by_text(key, exact=True)).to_be_visible()
    picture(desk, "prefect-artifacts", height=1300)
    prefect.artifact(triggered, "student: done")
    expect(desk.get_by_text("Progress: 100%")).to_be_visible()
    prefect.artifact(triggered, "recipe")
    expect(desk.get_by_text("stage: prune")).to_be_visible()
    picture(desk, "prefect-artifact-recipe")
    prefect.artifact(triggered, "gate")
    expect(desk.get_by_role("cell", name="num_parameters_ratio")).to_be_visible()
    picture(desk, "prefect-artifact-gate")
    prefect.artifact(triggered, "before-after")
    expect(desk.get_by_role("cell", name="healed (torch, 3 blocks)")).to_be_visible()
    picture(desk, "prefect-artifact-before-after")
    prefect.artifact(triggered, "report")
    link = desk.get_by_role("link", name=re.compile("^Report of "))
    desk.goto(str(link.get_attribute("href")))
    report = desk.frame_locator("iframe")
    expect(report.get_by_text("Before and after")).to_be_visible()
    picture(desk, "mlflow-report")


def test_the_nightly_schedule_shows_its_next_run(prefect: PrefectPages, desk: Page, api: Api) -> None:
    body = {"deployments": {"name": {"any_": ["nightly"]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    until(lambda: api.ask("flow_runs/count", body) > 0)  # the server's scheduler has its own pace
    prefect.deployment("nightly")
    expect(desk.get_by_text("At 02:00 AM")).to_be_visible()
    expect(desk.get_by_text("Next Run")).to_be_visible()
    # the browser is set to Berlin's time, which the schedule is in
    expect(desk.get_by_text(re.compile(r"\d{4}/\d\d/\d\d 02:00:00 AM")).first).to_be_visible()
    picture(desk, "prefect-nightly")


def test_two_compressions_stand_side_by_side(mlflow: MlflowPages, home: Path, triggered: str, second: str) -> None:
    names = [run.parent.name for run in sorted(home.glob(f"runs/*-{NAME}-*/run.json"))]
    assert len(names) == 2
    mlflow.compare(names)
    page = mlflow.page
    page.get_by_text("Visualizations").click()  # folded: the tables are what one has come for
    for switch in page.get_by_text("Show diff only").all()[:2]:  # of parameters and of metrics
        switch.click()
    expect(page.get_by_role("rowheader", name="smaller.num_blocks")).to_be_visible()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="smaller.num_blocks"))
    assert sorted(row.get_by_role("cell").all_inner_texts()) == ["1", "2"], "what was asked for"
    expect(page.get_by_text("scores/num_parameters", exact=True).last).to_be_visible()
    for num_parameters in ("44448", "35168"):  # of three blocks and of two: what came of it
        expect(page.get_by_text(num_parameters, exact=True).last).to_be_visible()
    expect(page.get_by_role("rowheader", name="original.source")).to_have_count(0)  # the same in both
    picture(page, "mlflow-compare", height=1100)


def test_registered_versions_show_their_aliases(mlflow: MlflowPages, second: str) -> None:
    mlflow.model(NAME)
    rows = mlflow.page.get_by_role("row")
    expect(rows.filter(has_text="Version 1").get_by_text("champion", exact=False)).to_be_visible()
    expect(rows.filter(has_text="Version 2").get_by_text("candidate", exact=False)).to_be_visible()
    assert not rows.filter(has_text="Version 2").get_by_text("champion").count(), "its gate failed"
    expect(rows.filter(has_text="Version 1").get_by_text("gate passed, perplexity")).to_be_visible()
    picture(mlflow.page, "mlflow-versions", height=1100)


def test_the_report_is_readable_on_a_phone(home: Path, triggered: str, chrome: Browser) -> None:
    [report, *_] = sorted(home.glob(f"runs/*-{NAME}-*/report.html"))
    page = open_page(chrome, PHONE)
    page.goto(report.as_uri())
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]")
    assert widths == [PHONE[0]] * 3, "the page itself neither scrolls sideways nor is shrunk to fit"
    letters = page.evaluate(LETTERS)
    assert len(letters) > 100 and min(letters)[0] >= SMALLEST_PIXELS, min(letters)
    boxes = page.locator("section:has(table)")
    wide = [box for box in boxes.all() if box.evaluate("box => box.scrollWidth > box.clientWidth")]
    assert wide, "some table is wider than a phone"
    for box in wide:
        assert box.evaluate("box => { box.scrollLeft = 40; return box.scrollLeft; }") == 40, "it scrolls in its own box"
        box.evaluate("box => { box.scrollLeft = 0; }")
    picture(page, "report-phone")
    page.get_by_role("heading", name=re.compile("^Score of each window")).scroll_into_view_if_needed()
    picture(page, "report-phone-charts")


def green_share(png: bytes) -> float:
    """The share of a picture's pixels that have the green of a completed node."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int), -1, 0)
    return float(((green > red + 60) & (green > blue + 40)).mean())
