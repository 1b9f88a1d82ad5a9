"""The same stages on a GPU: run where there is one, with `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
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
