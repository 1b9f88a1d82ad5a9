"""What PEFT makes of an adapter is held against the folded weights: two cases in which PEFT gives other numbers than the adapter's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.fold_check import check_folded_logits
from attar.stages.merge.sources import FoldedAdapter, FolderSource


def saved_adapter(model: ModelArtifact, folder: Path, **options: object) -> Path:
    """An adapter with random weights on the model, written by PEFT."""
    config = LoraConfig(r=4, init_lora_weights=False, **options)  # type: ignore[arg-type]
    get_peft_model(load_model(model.path, "float32"), config).save_pretrained(folder)
    return folder


def test_a_whole_adapter_passes(model: ModelArtifact, tmp_path: Path) -> None:
    adapter = saved_adapter(model, tmp_path / "adapter", target_modules=["q_proj"])
    check_folded_logits(FoldedAdapter.open(FolderSource(model.path), adapter), adapter)


@pytest.mark.parametrize("is_random", [True, False])
def test_an_adapter_that_lacks_a_block_is_refused(model: ModelArtifact, tmp_path: Path, is_random: bool) -> None:
    adapter = saved_adapter(model, tmp_path / "adapter", target_modules=["q_proj"])
    path = adapter / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "layers.2." not in name}, path)
    if not is_random:  # PEFT then fills zeros: no other numbers, and still not what the config says
        config = adapter / "adapter_config.json"
        config.write_text(config.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
    source = FoldedAdapter.open(FolderSource(model.path), adapter)
    with pytest.raises(ValueError, match=r"lacks 1 of them, model\.layers\.2\.self_attn\.q_proj\.weight"):
        check_folded_logits(source, adapter)


def test_an_adapter_of_tied_weights_is_refused(store: Store, tmp_path: Path) -> None:
    """PEFT would merge such an adapter twice into the one matrix."""
    config = IngestModelConfig(source="random:gemma2?num_blocks=2&hidden_size=64&seed=0")
    model = ingest_model.execute(config, NoInputs(), store).artifact
    options = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    adapter = saved_adapter(model, tmp_path / "adapter", **options)
    with pytest.raises(ValueError, match="adapter tensor .* (cannot be folded|has no place in the base model)"):
        FoldedAdapter.open(FolderSource(model.path), adapter)
