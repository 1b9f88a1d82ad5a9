"""The same stages on a GPU: run where there is one, with `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.export.runtime import CPU, CUDA, OnnxRunner
from attar.compressors.models.decode import decode
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data

pytestmark = pytest.mark.gpu


def test_self_data_and_finetune_on_the_accelerator(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    device = pick_device()
    assert device.type != "cpu" and pick_dtype("auto", device) in (torch.bfloat16, torch.float32)
    data = self_data.execute(
        SelfDataConfig(drawing={"max_new_tokens": 8}, recorded={"num_candidates": 8}),
        SelfDataInputs(model=model, data=questions),
        store,
    ).artifact
    config = FinetuneConfig(
        adapt={"rank": 4}, objectives={"next_token": 1.0, "forward_kl": 1.0}, schedule={"tokens_per_step": 512}
    )
    adapter = finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact
    assert int(adapter.facts["num_steps"]) > 0


@pytest.mark.parametrize("cache", ["float", "int8"])
def test_a_graph_in_float16_writes_on_the_card_what_it_writes_here(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, cache: str
) -> None:
    config = ExportConfig(format={"kind": "onnx", "precision": "float16", "cache": {"kind": cache}}, num_prompts=1)  # type: ignore[arg-type]
    graph = export.execute(config, ExportInputs(model=model, data=questions), store).artifact
    runners = [OnnxRunner(open_session(graph.path, provider), provider) for provider in (CUDA, CPU)]
    assert runners[0].device.type == "cuda"
    on_card, here = (
        [text.token_ids for text in decode(runner, [[5, 6, 7], [9, 10]], max_new_tokens=16, stop_ids=())]
        for runner in runners
    )
    assert on_card == here
