"""A headless Chromium, and the pages of Prefect's and MLflow's interfaces as a person uses them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = "ATTAR_TEST_CHROMIUM"  # the browser's path, where it is none of those below
PICTURES = "ATTAR_TEST_PICTURES"  # a folder for pictures of every page that a test has looked at
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = (1280, 900), (390, 844)


def chromium() -> str:
    """Return the path of the browser. Raises FileNotFoundError that says how to get one."""
    binary = os.environ.get(CHROMIUM) or next(filter(None, map(shutil.which, NAMES)), None)
    if not binary:
        raise FileNotFoundError(f"no browser: install chromium (apt install chromium), or name one in {CHROMIUM}")
    return binary


@contextmanager
def headless(*options: str) -> Iterator[Browser]:
    """Start the browser, one at a time; it has no window. `options`: more words of its command line."""
    with sync_playwright() as playwright:
        # no sandbox: containers and CI rarely allow one, and the pages are our own
        words = ["--no-sandbox", "--no-proxy-server", *options]
        browser = playwright.chromium.launch(executable_path=chromium(), args=words)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, size: tuple[int, int] = DESK) -> Page:
    """Open a window of that size, in logical pixels; a phone's is a phone's in all: touch, density, scroll bars."""
    is_phone = size == PHONE
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        locale="en-GB",
        timezone_id="Europe/Berlin",
        is_mobile=is_phone,
        has_touch=is_phone,
        device_scale_factor=2 if is_phone else 1,
    )
    context.set_default_timeout(60_000)
    return context.new_page()


def picture(page: Page, name: str, height: int = 0) -> None:
    """Keep a picture of what is seen, `height` pixels of it where the page scrolls inside a frame."""
    folder = os.environ.get(PICTURES)
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    assert size is not None
    if height:
        page.set_viewport_size({"width": size["width"], "height": height})
    page.screenshot(path=Path(folder) / f"{name}.png")
    page.set_viewport_size(size)


class PrefectPages:
    """Prefect's interface, by what is written on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def deployment(self, name: str) -> None:
        """From the start page to a deployment's, through the menu."""
        self.page.goto(self.url)
        self.page.get_by_role("link", name="Deployments", exact=True).click()
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).wait_for()

    def form(self, deployment: str) -> None:
        """Open a deployment's form for a run of one's own."""
        self.deployment(deployment)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        self.page.locator("fieldset label").first.wait_for()

    def titles(self) -> list[str]:
        """The titles of all fields, in the order in which they stand."""
        labels = self.page.locator("fieldset fieldset label, fieldset label:has(+ p)").all_inner_texts()
        return [label.removesuffix(" (Optional)") for label in labels]

    def field(self, title: str) -> Locator:
        """The box of one field: title, description, input, and what is wrong with it."""
        return self._label(title).locator("xpath=../../..")

    def fill(self, title: str, value: str | int | float | bool) -> None:
        """Fill a field as its kind wants it: a switch, a choice, JSON, a number or a text."""
        field = self.field(title)
        if isinstance(value, bool):
            switch = field.get_by_role("switch")
            if (switch.get_attribute("aria-checked") == "true") is not value:
                switch.click()
        elif field.locator("[aria-haspopup=listbox]").count():
            field.locator("[aria-haspopup=listbox]").click()
            self.page.get_by_role("option", name=str(value), exact=True).click()
        elif field.locator("fieldset input, fieldset textarea").count():
            field.locator("fieldset input, fieldset textarea").fill(str(value))
        else:  # an editor of JSON, which comes a little later; inserted, since it closes a typed bracket by itself
            field.locator("[contenteditable=true]").click()
            self.page.keyboard.press("ControlOrMeta+a")
            self.page.keyboard.insert_text(str(value))

    def submit(self) -> None:
        """Press Submit."""
        self.page.get_by_role("button", name="Submit").click()

    def _label(self, title: str) -> Locator:
        return self.page.locator("fieldset label", has_text=re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))

    def run_page(self, run: str, tab: str) -> None:
        """Open a flow run's page at one of its tabs."""
        self.page.goto(f"{self.url}/v2/runs/flow-run/{run}")
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def artifact(self, run: str, name: str) -> None:
        """Open an artifact of a flow run as it shows itself: by its key, or by its description where it has no key."""
        self.run_page(run, "Artifacts")
        self.page.get_by_role("tabpanel").get_by_text(name, exact=True).click()
        versions = self.page.get_by_role(
            "link", name=re.compile(r"^[0-9a-f]{8}$")
        )  # a key has a page of its versions first
        versions.or_(self.page.get_by_role("button", name="Show Raw Data")).first.wait_for()
        if versions.count():
            versions.first.click()
            self.page.get_by_role("button", name="Show Raw Data").wait_for()


class MlflowPages:
    """MLflow's interface, on the face that shows runs and registered models."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def start(self) -> None:
        """Open the start page, choose the face for models, put away what MLflow offers besides."""
        self.page.goto(self.url)
        self.page.get_by_text("Model training", exact=True).click()
        assistant = self.page.get_by_role("button", name="Close", exact=True)
        for button in assistant.all():
            button.click()

    def runs(self) -> None:
        """From the start page to the table of runs."""
        self.start()
        self.page.get_by_role("link", name="Experiments", exact=True).click()
        self.page.get_by_role("link", name="attar", exact=True).click()
        self.page.get_by_role("gridcell").first.wait_for()

    def compare(self, names: list[str]) -> None:
        """Tick runs in the table and put them side by side."""
        self.runs()
        for name in names:
            self.page.get_by_role("row").filter(has_text=name).get_by_role("checkbox").first.click()
        self.page.get_by_role("button", name="Compare", exact=True).click()
        self.page.get_by_text(f"Comparing {len(names)} Runs").wait_for()

    def model(self, name: str) -> None:
        """From the start page to a registered model's versions."""
        self.start()
        self.page.get_by_role("link", name="Model registry").click()
        self.page.get_by_role("link", name=name, exact=True).wait_for()
        news = self.page.get_by_role("button", name="Try it now")
        if news.count():
            news.click()
        self.page.get_by_role("link", name=name, exact=True).click()
        self.page.get_by_role("link", name="Version 1", exact=True).wait_for()
