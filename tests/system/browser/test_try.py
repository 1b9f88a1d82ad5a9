"""`attar try` in a real browser: the graph runs there, writes what onnxruntime writes here, and asks no other machine for anything."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.export.runtime import OnnxRunner
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.registry.release.model_registry import register_model
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from tests.databases import copy_database
from tests.system.browser.browsing import DESK, PHONE, headless, open_page, picture

pytestmark = pytest.mark.browser
# a folder with the files of `npm pack`, where npm is not to be asked
PACKAGES = "ATTAR_TEST_NPM_PACKAGES"
QUESTION = "What is 1 plus 2?"
NUM_TOKENS = 12


# WebGPU without a GPU: Chromium's own software adapter, which the page takes only where it is asked for by name
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
HALF = {"kind": "onnx", "precision": "float16", "cache": {"kind": "int8", "num_samples": 4}}


@pytest.fixture
def page_url(
    tmp_path: Path, graph: OnnxArtifact, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A page that `attar try` serves, with a random model's graph as its champion."""
    with served(graph, tmp_path, mlflow_database, monkeypatch) as url:
        yield url


@contextmanager
def served(
    graph: OnnxArtifact, tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A page that `attar try` serves, with this graph as its champion."""
    home = tmp_path / "home"
    copy_database(mlflow_database, home / "mlflow.db")
    monkeypatch.setenv("ATTAR_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def write(folder: Path) -> None:
        shutil.copytree(graph.path, folder / "onnx", ignore=shutil.ignore_patterns("records"))

    register_model("tiny", "key", write, metrics={}, params={}, tags={}, scratch=home / "scratch", is_champion=True)
    command = [sys.executable, "-m", "attar.pipelines", "try", "tiny", "--port", "0"]
    if folder := os.environ.get(PACKAGES):
        command += ["--packages", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if match := re.match(r"(http://\S+) has the page", line):
            break
    else:
        pytest.fail("".join(lines))
    yield match[1]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and rest.split()[-1:] == ["stopped"]


def written_here(graph: OnnxArtifact) -> str:
    """What the graph writes greedily, by onnxruntime in this process."""
    tokenizer = load_tokenizer(graph.path)
    runner = OnnxRunner(open_session(graph.path))
    ids = torch.tensor([chat_prompt(tokenizer, QUESTION)])
    mask, cache, written = torch.ones_like(ids), None, []
    for _ in range(NUM_TOKENS):
        logits, cache = runner.forward(ids, mask, cache, last_only=True)
        ids = logits[:, -1].argmax(dim=-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        written.append(int(ids))
    return tokenizer.decode(written, skip_special_tokens=True)


def test_a_browser_writes_what_onnxruntime_writes(page_url: str, graph: OnnxArtifact) -> None:
    with headless() as browser:
        page = open_page(browser, (1400, 900))
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(page_url)
        page.get_by_role("button", name="Send").and_(page.locator(":enabled")).wait_for()
        assert page.evaluate("crossOriginIsolated"), "without it WebAssembly has one thread"
        page.get_by_label("At most").fill(str(NUM_TOKENS))
        page.get_by_label("Message").fill(QUESTION)
        page.keyboard.press("Enter")
        figures = page.locator("li.assistant .figures")
        figures.wait_for()
        assert re.fullmatch(
            rf"\d+\.\d tokens/s, {NUM_TOKENS} tokens, the first after \d+\.\d\d s", figures.inner_text()
        )
        answer = page.locator("li.assistant").inner_text().removesuffix(figures.inner_text())
        assert answer.strip() == written_here(graph).strip()
        picture(page, "try-desk")
        page.get_by_label("Message").fill("And now?")
        page.get_by_label("At most").fill("400")
        page.evaluate("document.getElementById('send').click(); document.getElementById('stop').click()")
        stopped = page.locator("li.assistant .figures").nth(1)
        assert re.search(r"\b[012] tokens", stopped.inner_text()), "it stops after the next token"
        page.get_by_role("button", name="New chat").click()
        assert page.locator("li").count() == 0
        assert all(url.startswith((page_url, "blob:")) for url in requests), requests
        assert not errors, errors


def answer_of(page: Page) -> str:
    """Ask the page, and return what it wrote."""
    page.get_by_role("button", name="Send").and_(page.locator(":enabled")).wait_for()
    page.get_by_label("At most").fill(str(NUM_TOKENS))
    page.get_by_label("Message").fill(QUESTION)
    page.keyboard.press("Enter")
    figures = page.locator("li.assistant .figures")
    figures.wait_for()
    return page.locator("li.assistant").inner_text().removesuffix(figures.inner_text()).strip()


def test_a_graph_in_float16_with_an_int8_cache_runs_in_webassembly(
    tmp_path: Path,
    model: ModelArtifact,
    questions: DatasetArtifact,
    shared_store: Store,
    mlflow_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ExportConfig(format=HALF, num_prompts=1, num_new_tokens=8)  # type: ignore[arg-type]
    half = export.execute(config, ExportInputs(model=model, data=questions), shared_store).artifact
    with served(half, tmp_path, mlflow_database, monkeypatch) as url, headless() as browser:
        page = open_page(browser)
        page.goto(url)
        assert answer_of(page) == written_here(half).strip()
        assert page.locator("#status").inner_text().startswith("Ready")


def test_webgpu_writes_the_same(page_url: str, graph: OnnxArtifact) -> None:
    with headless(*SOFTWARE_GPU) as browser:
        page = open_page(browser)
        page.goto(f"{page_url}?device=webgpu")
        if not page.evaluate("(async () => Boolean(await navigator.gpu?.requestAdapter()))()"):
            pytest.skip("this Chromium has no software adapter for WebGPU")
        page.get_by_text("Ready, WebGPU").wait_for()
        assert answer_of(page) == written_here(graph).strip()


def test_on_a_phone_nothing_is_wider_than_the_page(page_url: str) -> None:
    with headless() as browser:
        for size, name in ((PHONE, "try-phone"), (DESK, "try-before")):
            page = open_page(browser, size)
            page.goto(page_url)
            page.get_by_role("button", name="Send").and_(page.locator(":enabled")).wait_for()
            page.get_by_label("At most").fill("20")
            page.get_by_label("Message").fill("A long word: " + "unbreakable" * 20)
            page.get_by_role("button", name="Send").click()
            page.locator("li.assistant .figures").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            picture(page, name)
