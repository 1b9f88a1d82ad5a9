"""Pruning every family: the folder loads as a plain model and computes exactly the kept blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from attar.compressors.models.blocks import decoder_blocks
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import read_scores

IDS = torch.tensor([[5, 6, 7, 8, 40, 41, 42, 43, 90, 91, 92, 93, 100, 101, 102, 103, 104, 105, 106, 107]])


def ingest(family: str, store: Store, num_blocks: int = 6) -> ModelArtifact:
    config = IngestModelConfig(source=f"random:{family}?num_blocks={num_blocks}&seed=1")
    return ingest_model.execute(config, NoInputs(), store).artifact


def logits_of_kept_blocks(folder: Path, removed: list[int]) -> torch.Tensor:
    """Run the original by hand without some blocks: each of them hands its input on."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for index in removed:
        decoder_blocks(model)[index].register_forward_hook(_pass_on, with_kwargs=True)
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def _pass_on(module, args, kwargs, output):
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("removed", [[2, 3], [0, 5]], ids=["window", "ends"])
def test_pruned_model_is_the_kept_blocks(family: str, removed: list[int], store: Store) -> None:
    original = ingest(family, store)
    pruned = prune.execute(PruneConfig(blocks=removed), PruneInputs(model=original), store).artifact
    model = AutoModelForCausalLM.from_pretrained(pruned.path).eval()
    assert model.config.num_hidden_layers == pruned.facts["num_blocks"] == 4
    with torch.no_grad():
        logits = model(input_ids=IDS, use_cache=False).logits
    expected = logits_of_kept_blocks(original.path, removed)
    assert torch.equal(logits, expected)
    untouched = logits_of_kept_blocks(original.path, [])
    assert not torch.allclose(logits, untouched, atol=1e-3), "the removed blocks did nothing: the test proves nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_model_decodes_with_a_cache_as_without(family: str, store: Store) -> None:
    pruned = prune.execute(PruneConfig(blocks=[1, 2]), PruneInputs(model=ingest(family, store)), store).artifact
    model = AutoModelForCausalLM.from_pretrained(pruned.path).eval()
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = model.generate(IDS, use_cache=True, **options)
    without = model.generate(IDS, use_cache=False, **options)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("metric", ["angular_distance", "block_influence"])
def test_planted_identity_window_goes(metric: str, store: Store, tmp_path: Path, questions: DatasetArtifact) -> None:
    folder = tmp_path / "planted"
    original = ingest("llama", store, num_blocks=5)
    model = AutoModelForCausalLM.from_pretrained(original.path)
    with torch.no_grad():
        for index in (2, 3):
            decoder_blocks(model)[index].self_attn.o_proj.weight.zero_()
            decoder_blocks(model)[index].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((original.path / name).read_bytes())
    planted = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    scanned = scan.execute(
        ScanConfig(calibration={"num_samples": 4}), ScanInputs(model=planted, data=questions), store
    ).artifact
    config = PruneConfig(num_blocks=2, metric=metric)
    pruned = prune.execute(config, PruneInputs(model=planted, scan=scanned), store).artifact
    assert pruned.facts["removed_blocks"] == (2, 3)
    before = AutoModelForCausalLM.from_pretrained(planted.path).eval()
    after = AutoModelForCausalLM.from_pretrained(pruned.path).eval()
    with torch.no_grad():
        torch.testing.assert_close(after(input_ids=IDS).logits, before(input_ids=IDS).logits, atol=1e-5, rtol=0)


def test_scan_table_holds_every_window(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    scanned = scan.execute(
        ScanConfig(calibration={"num_samples": 4, "max_tokens": 32}), ScanInputs(model=model, data=questions), store
    ).artifact
    for metric in ("angular_distance", "block_influence"):
        scores = read_scores(scanned.path / "windows.csv", metric)
        assert sorted(scores) == sorted((first, size) for first in range(4) for size in range(1, 5 - first))
    assert (scanned.path / "windows.csv").read_text().splitlines()[
        0
    ] == "num_blocks,first_block,angular_distance,block_influence,magnitude,reverse_order,random"


def test_a_family_whose_blocks_compute_with_their_index_is_refused(store: Store, tmp_path: Path) -> None:
    original = ingest("gpt2", store)
    model = AutoModelForCausalLM.from_pretrained(original.path)
    model.config.scale_attn_by_inverse_layer_idx = True
    model.save_pretrained(tmp_path / "odd")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "odd" / name).write_bytes((original.path / name).read_bytes())
    odd = ingest_model.execute(IngestModelConfig(source=f"folder:{tmp_path / 'odd'}"), NoInputs(), store).artifact
    with pytest.raises(ValueError, match="block 2 would come back as block 1, where attn.scaling is"):
        prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=odd), store)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([9], "block 9 does not exist: the model has 4 blocks, 0 to 3"),
        ([1, 1], "an index is repeated"),
        ([0, 1, 2, 3], "leaves none"),
    ],
)
def test_blocks_that_cannot_go_are_refused(blocks: list[int], message: str, store: Store, model: ModelArtifact) -> None:
    with pytest.raises(ValueError, match=message):
        prune.execute(PruneConfig(blocks=blocks), PruneInputs(model=model), store)
