"""The page's server: a fixed list of paths, to this machine's own names alone, with headers that keep the page to itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from attar.pipelines.browser.page_server import MAX_GRAPH_BYTES, PAGE, page_app, page_files, precision_of


def graph_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name in ("model.onnx", "model.onnx_data", "config.json", "tokenizer.json"):
        (folder / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "sub").mkdir()
    return folder


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    library = tmp_path / "transformers.min.js"
    library.write_text("export {}")
    files = page_files(graph_folder(tmp_path), {"transformers.min.js": library})
    return TestClient(page_app(files, {"name": "small"}), base_url="http://127.0.0.1:8010")


def test_page_library_and_model_are_there(client: TestClient) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/lib/transformers.min.js", "text/javascript"),
        ("/model/config.json", "application/json"),
        ("/model/onnx/model.onnx_data", "application/octet-stream"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind), path
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp", "WebAssembly's threads want it"
        assert "connect-src 'self' blob:" in answer.headers["content-security-policy"]
    assert client.get("/about.json").json() == {"name": "small"}


@pytest.mark.parametrize(
    "path", ["/model/../secret", "/model/%2e%2e/secret", "/model/link", "/model/sub", "/secret", "/lib/"]
)
def test_nothing_else_is(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_page_of_another_name_is_refused(client: TestClient) -> None:
    for host, status in (("evil.example", 400), ("localhost:8010", 200), ("127.0.0.1:8010", 200)):
        assert client.get("/model/config.json", headers={"host": host}).status_code == status
    assert client.post("/model/config.json").status_code == 405


def test_what_no_browser_runs_is_refused(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path)
    with (folder / "model.onnx_data").open("wb") as file:
        file.truncate(MAX_GRAPH_BYTES)
    with pytest.raises(ValueError, match=r"onnx has 2\.0 GB; accepted in a browser: 2 GB"):
        page_files(folder, {})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"onnx has no tokenizer\.json"):
        page_files(folder, {})


@pytest.mark.parametrize(("config", "precision"), [({}, "float32"), ({"kv_cache_dtype": "float16"}, "float16")])
def test_the_page_knows_whether_a_gpu_must_have_16_bits(tmp_path: Path, config: dict[str, str], precision: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"transformers.js_config": config}))
    assert precision_of(tmp_path) == precision


def test_bfloat16_is_refused_which_no_browser_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"transformers.js_config": {"kv_cache_dtype": "bfloat16"}}))
    with pytest.raises(ValueError, match="is in bfloat16; accepted in a browser: float32, float16, and integers"):
        precision_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"transformers.js_config": {"kv_cache_dtype": "int8"}}))
    with pytest.raises(ValueError, match="is in int8; accepted in a browser"):
        precision_of(tmp_path)


def test_the_page_names_no_other_machine() -> None:
    for path in PAGE.iterdir():
        assert (
            "http://" not in path.read_text().replace("http://www.w3.org/2000/svg", "")
            and "https://" not in path.read_text()
        ), path.name
