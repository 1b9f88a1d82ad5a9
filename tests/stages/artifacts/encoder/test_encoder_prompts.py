"""What stands before a question and before a text of a corpus: read from the folder, written to it, and read by evaluations and trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.modules_file import SETTINGS, read_form
from attar.stages.artifacts.encoder.texts import TextReader, prompted
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.evaluate.stage import evaluate
from tests.stages.artifacts.encoder.conftest import CODE, encoder_of
from tests.stages.artifacts.encoder.test_encoder_stages import cut

SOURCE = "random:bert?num_blocks=2&hidden_size=32"
PROMPTS = {"query_prompt": "find: ", "document_prompt": "code: "}


def test_an_evaluation_asks_behind_the_prompts(store: Store, code: DatasetArtifact, pairs: DatasetArtifact) -> None:
    plain, own = encoder_of(store, SOURCE, max_tokens=128), encoder_of(store, SOURCE, max_tokens=128, **PROMPTS)
    assert read_form(own.path).prompts == ("find: ", "code: ")  # type: ignore[union-attr]
    inputs = [EvaluateInputs(model=model, tasks=(code, pairs)) for model in (plain, own)]
    first, second = (
        evaluation_of(evaluate.execute(EvaluateConfig(precision="float32"), some, store).artifact) for some in inputs
    )
    assert first["asked"] == second["asked"], "the same questions, whatever stands before them"
    assert first["pairs"] == second["pairs"], "sentences of a graded pair are no questions"
    rows = [CODE[index] for index in _heldout(code)]
    reader = TextReader(own.path, 128)
    queries, texts = (
        encoded(load_encoder(own.path), reader([prompt + row[name] for row in rows]))
        for prompt, name in (("find: ", "question"), ("code: ", "answer"))
    )
    scores = torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(texts, dim=-1).T
    ranks = [[1 + int((scores[index] > scores[index, index]).sum())] for index in range(len(rows))]
    assert second["retrieval"]["code"]["ranks"] == ranks


def _heldout(code: DatasetArtifact) -> list[int]:
    questions = [entry["question"] for entry in CODE]
    lines = map(json.loads, (code.path / "rows.jsonl").read_text().splitlines())
    return [questions.index(row["question"]) for row in lines if row.get("split") == "heldout"]


def test_prompts_go_with_the_encoder(store: Store, tmp_path: Path) -> None:
    own = encoder_of(store, SOURCE, max_tokens=128, **PROMPTS)
    assert read_form(cut(store, own, blocks=[1]).path).prompts == ("find: ", "code: ")  # type: ignore[union-attr]
    folder = tmp_path / "folder"
    shutil.copytree(own.path, folder, ignore=shutil.ignore_patterns("records"))
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**settings, "prompts": {"passage": "text: ", "corpus": "no"}}))
    again = encoder_of(store, f"folder:{folder}", query_prompt="ask: ")
    assert read_form(again.path).prompts == ("ask: ", "text: ")  # type: ignore[union-attr] - of a folder the first name that is there
    (folder / SETTINGS).write_text(json.dumps({**settings, "prompts": {"query": 3}}))
    with pytest.raises(ValueError, match="has prompts {'query': 3}; accepted: a text for each name"):
        encoder_of(store, f"folder:{folder}")


def test_a_row_stands_behind_its_prompts() -> None:
    prompts = ("q: ", "d: ")
    assert prompted(Row(id="1", question="a", answer="b"), prompts) == Row(id="1", question="q: a", answer="d: b")
    assert prompted(Row(id="1", text="a"), prompts) == Row(id="1", text="d: a")
    graded = Row(id="1", question="a", answer="b", similarity=0.5)
    assert prompted(graded, prompts) == graded
