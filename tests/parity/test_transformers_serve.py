"""The server sampler against `transformers serve` on a model folder: the same greedy text as decoding it here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from attar.compressors.data.prompts import chat_prompt, stop_token_ids
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import GREEDY
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.chat_server import ServerConfig, ServerSampler
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.samplers import Prompt, RunnerSampler
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data

QUESTIONS = [
    "What is 1 plus 2?",
    "Hi",
    "A much longer question, so that lengths differ. " * 3,
    "Why?",
    "Who?",
    "How so?",
]


@pytest.fixture(scope="module")
def server(model: ModelArtifact) -> Iterator[ServerConfig]:
    """`transformers serve` on a free port, with the model that is loaded from its folder at start; no hub is asked."""
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model.path), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--device", "cpu", "--dtype", "float32"],
        env=dict(os.environ) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        match = re.search(r"running on (http://\S+)", line)
        if match:
            break
    else:
        pytest.fail("transformers serve did not start:\n" + "".join(lines))
    threading.Thread(target=process.stderr.read, daemon=True).start()  # or its log would fill the pipe
    yield ServerConfig(base_url=f"{match[1]}/v1", model=str(model.path), concurrency=3)
    process.terminate()
    process.wait()


def test_greedy_text_is_the_one_decoded_here(server: ServerConfig, model: ModelArtifact) -> None:
    tokenizer, loaded = load_tokenizer(model.path), load_model(model.path, "float32")
    prompts = [Prompt(text, chat_prompt(tokenizer, text), seed=0) for text in QUESTIONS]
    here = RunnerSampler(TorchRunner(loaded), stop_token_ids(tokenizer, loaded.generation_config), batch_size=2)
    options = {"max_new_tokens": 24, "sampling": GREEDY}
    ours, served = here.sample(prompts, **options), ServerSampler(server, tokenizer).sample(prompts, **options)
    for answer, other in zip(ours, served, strict=True):
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (answer.token_ids, other.token_ids)]
        assert texts[0] == texts[1] and answer.is_finished == other.is_finished


def test_a_data_set_is_written_through_the_server_and_recorded_here(
    server: ServerConfig, store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = SelfDataConfig(
        sampler="server",
        server=server,
        drawing={"max_new_tokens": 12},
        recorded={"num_candidates": 8},
        rows_per_shard=5,
        batch_size=2,
        precision="float32",
    )
    local = config.with_changes(sampler="torch", server=None)
    inputs = SelfDataInputs(model=model, data=questions)
    artifacts = [self_data.execute(some_config, inputs, store).artifact for some_config in (config, local)]
    through, here = (read_rows(artifact.path / "rows.jsonl") for artifact in artifacts)
    assert [row.rewrite for row in through] == [row.rewrite for row in here]
    assert [(row.source, row.reason, row.answer_ids) for row in through] == [
        (row.source, row.reason, row.answer_ids) for row in here
    ]
    record = TeacherRecord(artifacts[0].path)
    assert all(record.of(row) is not None for row in through)
