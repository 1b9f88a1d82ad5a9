"""A vision-language model's language tower is taken out, cut as any model is, and put back; pictures are read as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.vision_folder import load_vision_model, outside_tower
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import byte_tokenizer
from attar.stages.merge.rejoin import RejoinConfig, RejoinInputs, rejoin
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

TEXT: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.15, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
PICTURE = 270
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
WHOLES: dict[str, dict[str, Any]] = {
    "smolvlm": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": SIGHT, "image_token_id": PICTURE, "scale_factor": 2},
    "gemma3": {
        "text_config": {**TEXT, "sliding_window": 16}, "vision_config": {**SIGHT, "model_type": "siglip_vision_model"},
        "image_token_id": PICTURE, "mm_tokens_per_image": 4,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4},
        "image_token_id": PICTURE, "video_token_id": 271, "vision_start_token_id": 268, "vision_end_token_id": 269,
    },
}  # fmt: skip


def whole_folder(family: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **WHOLES[family]), dtype=torch.float32)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Idefics3ImageProcessor"}))
    return folder


def seen(model: Any, family: str) -> torch.Tensor:
    """Return the logits behind a picture and a question."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, *[PICTURE] * 4, 9, 10, 11]])
    options: dict[str, Any] = {"pixel_values": torch.randn(1, 1, 3, 16, 16, generator=draw)}
    if family == "gemma3":
        options = {"pixel_values": torch.randn(1, 3, 16, 16, generator=draw), "token_type_ids": (ids == PICTURE).long()}
    elif family == "qwen2_5_vl":
        patches = torch.randn(16, 3 * 2 * 4 * 4, generator=draw)
        options = {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]])}
        options["mm_token_type_ids"] = (ids == PICTURE).int()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).logits


@pytest.mark.parametrize("family", WHOLES)
def test_a_tower_is_cut_and_put_back(family: str, tmp_path: Path) -> None:
    source, store = f"tower:{whole_folder(family, tmp_path / 'whole')}", Store(tmp_path / "store")
    tower = ingest_model.execute(IngestModelConfig(source=source), NoInputs(), store).artifact
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=tower), store).artifact
    back = rejoin.execute(RejoinConfig(source=source), RejoinInputs(model=cut), store).artifact
    before, after = load_vision_model(tmp_path / "whole"), load_vision_model(back.path)
    assert after.config.text_config.num_hidden_layers == 3 and back.facts.num_blocks == 3
    for name, tensor in outside_tower(before).items():
        assert torch.equal(tensor, outside_tower(after)[name]), name
    first, other = seen(before, family), seen(after, family)
    assert other.isfinite().all() and not torch.allclose(first, other), "a block is gone"
    whole_again = rejoin.execute(RejoinConfig(source=source), RejoinInputs(model=tower), store).artifact
    torch.testing.assert_close(seen(load_vision_model(whole_again.path), family), first)


def test_a_vision_model_without_its_processor_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = whole_folder("smolvlm", tmp_path / "whole")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no processor: none of preprocessor_config.json") as refusal:
        ingest_model.execute(IngestModelConfig(source=f"tower:{folder}"), NoInputs(), Store(tmp_path / "store"))
    assert "\n" not in str(refusal.value)


def test_a_plain_folder_has_no_tower(tmp_path: Path) -> None:
    from attar.stages.ingest.tiny_model import random_model

    model, tokenizer = random_model("llama", num_blocks=2)
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="model type 'llama' is no vision-language model"):
        ingest_model.execute(
            IngestModelConfig(source=f"tower:{tmp_path / 'plain'}"), NoInputs(), Store(tmp_path / "store")
        )
