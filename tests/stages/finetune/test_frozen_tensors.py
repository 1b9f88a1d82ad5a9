"""A freeze mask in a training of a causal model: what it lists leaves as it came in, bit for bit, and all else has learned."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def test_frozen_tensors_of_a_causal_model_are_bit_equal(
    shared_store: Store, model: ModelArtifact, prose: DatasetArtifact
) -> None:
    config = FinetuneConfig(
        adapt={"kind": "full", "freeze": ["*.mlp.*", "*layers.0.*", "*norm*"]},
        schedule={"max_steps": 2, "tokens_per_step": 128},
        compute={"precision": "float32"},
    )
    student = finetune.execute(config, FinetuneInputs(model=model, data=(prose,)), shared_store).artifact
    inputs = MergeInputs(base=model, students=(student,))
    folded = merge.execute(MergeConfig(method="fold"), inputs, shared_store).artifact
    before, after = tensors(model.path), tensors(folded.path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert moved == {f"model.layers.{block}.self_attn.{name}.weight" for block in (1, 2, 3) for name in matrices}
