"""A model held one block at a time gives what the whole model gives, to the bit, in every stage that takes it so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.paging import bring, twin
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.artifacts.model.paged import FolderStore, Pages, load_paged
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import NUM_BYTE_TOKENS, byte_tokenizer
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.narrow.stage import NarrowConfig, NarrowInputs, narrow
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from benchmarks.families.sizes import family_config

CPU = torch.device("cpu")
IDS = torch.arange(3, 43)[None]
FAMILIES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("gpt2", {}),
    ("gemma3n_text", {}),
    ("bamba", {}),
    ("lfm2", {}),
    ("qwen3_moe", {}),
    ("mixtral", {}),
    ("deepseek_v3", {}),
    ("gpt_oss", {}),
]


def folder_of(family: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, **options), dtype=dtype).eval()
    model.save_pretrained(folder)
    return folder


def files_of(artifact: ModelArtifact) -> dict[str, bytes]:
    """The content without the metrics, in which the order of notes may differ."""
    paths = sorted(path for path in artifact.path.rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {str(path.relative_to(artifact.path)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "options"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_paged_model_gives_the_whole_models_logits(
    family: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = folder_of(family, tmp_path / "model", **options)
    whole, paged = load_model(folder, dtype), load_paged(folder, dtype, CPU, Pages(tmp_path / "changes"))
    with torch.inference_mode():
        assert torch.equal(whole(IDS).logits, paged(IDS).logits)
    cached = [model.generate(IDS[:, :8], max_new_tokens=6, do_sample=False, pad_token_id=0) for model in (whole, paged)]
    assert torch.equal(*cached)


def test_one_blocks_weights_are_in_memory_at_a_time(tmp_path: Path) -> None:
    model = load_paged(folder_of("llama", tmp_path / "model"), torch.float32, CPU, Pages(tmp_path / "changes"))
    blocks, counts = decoder_blocks(model), []
    for block in blocks:
        block.register_forward_hook(lambda *_: counts.append(sum(not next(b.parameters()).is_meta for b in blocks)))
    weight = next(bring(blocks[0]).parameters())
    with torch.no_grad():
        model(IDS)
    assert counts == [1] * len(blocks)
    bring(blocks[1])
    assert weight.data_ptr() == next(blocks[1].parameters()).data_ptr()  # the next block's memory is this one's


def test_blocks_that_have_room_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("llama", tmp_path / "model")
    read: list[str] = []
    read_into = FolderStore.read_into
    monkeypatch.setattr(
        FolderStore, "read_into", lambda store, name, tensor: (read.append(name), read_into(store, name, tensor))[1]
    )
    model = load_paged(folder, torch.float32, CPU, Pages(tmp_path / "changes"))
    blocks = decoder_blocks(model)
    block_bytes = sum(parameter.nbytes for parameter in blocks[0].parameters())
    outside_bytes = sum(parameter.nbytes for parameter in model.parameters() if not parameter.is_meta)
    expected = model(IDS).logits
    roomy = load_paged(
        folder, torch.float32, CPU, Pages(tmp_path / "roomy", outside_bytes + (len(blocks) - 2) * block_bytes)
    )

    def blocks_read() -> list[int]:
        read.clear()
        with torch.no_grad():
            assert torch.equal(roomy(IDS).logits, expected)
        return sorted({int(name.split(".")[2]) for name in read})

    last = len(blocks) - 1
    assert blocks_read() == list(range(last + 1))
    assert blocks_read() == [last - 1, last]
    # a block that is removed gives its room: the next round keeps one more of those that are left
    remove_blocks(roomy, [1])
    with torch.no_grad():
        expected = roomy(IDS).logits
    assert blocks_read() == [last]


def test_a_block_that_stays_is_written_when_it_changes(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "model")
    whole = load_model(folder, torch.float32)
    paged = load_paged(folder, torch.float32, CPU, Pages(tmp_path / "changes", 1e12))
    for model in (whole, paged):
        with torch.no_grad():
            model(IDS)
            bring(decoder_blocks(model)[2]).mlp.down_proj.weight.mul_(1.5)
    assert torch.equal(whole(IDS).logits, paged(IDS).logits)
    copy = twin(paged, torch.float64, "copy")
    assert all(parameter.is_meta for parameter in decoder_blocks(paged).parameters())
    assert torch.equal(twin(whole, torch.float64, "copy")(IDS).logits, copy(IDS).logits)


def test_a_changed_block_is_read_as_it_was_left(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "model")
    whole, paged = (
        load_model(folder, torch.float32),
        load_paged(folder, torch.float32, CPU, Pages(tmp_path / "changes")),
    )
    for model in (whole, paged):
        with torch.no_grad():
            bring(decoder_blocks(model)[2]).mlp.down_proj.weight.mul_(1.5)
    assert torch.equal(whole(IDS).logits, paged(IDS).logits)
    assert [path.name for path in (tmp_path / "changes").iterdir()] == [
        "model.layers.2.mlp.down_proj.weight.safetensors"
    ]
    # what an interrupted walk left is not taken for weights of this one
    again = load_paged(folder, torch.float32, CPU, Pages(tmp_path / "changes"))
    assert torch.equal(load_model(folder, torch.float32)(IDS).logits, again(IDS).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bamba", "qwen3_moe", "granitemoehybrid"])
def test_a_paged_model_is_written_as_the_whole_one(family: str, tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path / "model", dtype=torch.bfloat16)
    facts = {}
    for name, model in (
        ("whole", load_model(folder, "auto")),
        ("paged", load_paged(folder, "auto", CPU, Pages(tmp_path / "changes"))),
    ):
        facts[name] = save_model(model, tmp_path / name).facts
    assert facts["whole"] == facts["paged"]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "paged" / path.name).read_bytes(), path.name


def test_not_finite_numbers_in_a_block_are_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.3.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_paged(folder, torch.float32, CPU, Pages(tmp_path / "changes"))
    with pytest.raises(ValueError, match=r"NaN or infinite numbers in model\.layers\.3\.mlp\.up_proj\.weight"):
        model(IDS)


@pytest.fixture(scope="module")
def original(shared_store: Store) -> ModelArtifact:
    config = IngestModelConfig(source="random:llama?num_blocks=5&seed=1")
    return ingest_model.execute(config, NoInputs(), shared_store).artifact


@pytest.mark.parametrize(
    "patch", [{"kind": "none"}, {"kind": "linear"}, {"kind": "refit"}], ids=lambda patch: patch["kind"]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_prune_writes_the_same_bytes_either_way(
    patch: dict[str, Any], precision: str, original: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    if patch["kind"] != "none":
        patch = {**patch, "num_samples": 4, "max_tokens": 48, "precision": precision}
    data = (questions,) if patch["kind"] != "none" else ()
    written = {
        way: prune.execute(
            PruneConfig(blocks=[2, 3], patch=patch, in_memory=way), PruneInputs(model=original, data=data), store
        ).artifact
        for way in ("model", "block")
    }
    assert files_of(written["model"]) == files_of(written["block"])
    assert written["model"].facts == written["block"].facts


@pytest.mark.parametrize("patch", ["none", "linear", "refit"])
def test_narrow_writes_the_same_bytes_either_way(
    patch: str, original: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    config: dict[str, Any] = {
        "size": {"ffn_fraction": 0.75, "multiple_of": 8},
        "num_removed_groups": 1,
        "patch": {"kind": patch},
    }
    config |= {"score": "contribution", "calibration": {"num_samples": 4, "max_tokens": 48, "precision": "float32"}}
    inputs = NarrowInputs(model=original, data=(questions,))
    written = {
        way: narrow.execute(NarrowConfig(**config, in_memory=way), inputs, store).artifact for way in ("model", "block")
    }
    assert files_of(written["model"]) == files_of(written["block"])


def test_experts_are_cut_and_written_the_same_either_way(tmp_path: Path, store: Store) -> None:
    folder = folder_of("qwen3_moe", tmp_path / "model", vocab_size=NUM_BYTE_TOKENS)
    byte_tokenizer().save_pretrained(folder)
    source = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    written = {
        way: prune.execute(PruneConfig(blocks=[1], in_memory=way), PruneInputs(model=source), store).artifact
        for way in ("model", "block")
    }
    assert files_of(written["model"]) == files_of(written["block"])


def test_scan_and_record_give_the_same_bytes_either_way(
    original: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    metrics = ["angular_distance", "magnitude", "patch_residual", "kl_increase"]
    for stage, config, inputs in (
        (
            scan,
            {
                "metrics": metrics,
                "sizes": [2],
                "calibration": {"num_samples": 4, "max_tokens": 48},
                "greedy": {"num_steps": 1},
            },
            ScanInputs(model=original, data=questions),
        ),
        (record, {"num_recorded": 8, "max_tokens": 64}, RecordInputs(model=original, data=questions)),
    ):
        written = {
            way: stage.execute(stage.config_type(**config, in_memory=way), inputs, store).artifact  # type: ignore[attr-defined, operator]
            for way in ("model", "block")
        }
        assert files_of(written["model"]) == files_of(written["block"])


def test_auto_takes_blocks_where_the_model_does_not_fit(
    original: ModelArtifact, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attar.stages.artifacts.model import placement

    taken = {}
    for free in (1e12, 1.0):
        monkeypatch.setattr(placement, "_free_bytes", lambda device, free=free: free)
        taken[free] = placement.Placement.chosen("auto", original.path, 2, CPU, store.root / "scratch").is_paged
    assert taken == {1e12: False, 1.0: True}


def test_what_needs_the_whole_model_is_refused_by_blocks() -> None:
    with pytest.raises(ValidationError, match="in_memory is 'block', but score 'taylor' runs backwards"):
        NarrowConfig(size={"ffn_fraction": 0.5}, in_memory="block")
    with pytest.raises(
        ValidationError, match="in_memory is 'block', but taylor, measure_latency and candidates need the whole model"
    ):
        ScanConfig(metrics=["taylor"], in_memory="block")
    with pytest.raises(ValidationError, match="in_memory"):
        RecordConfig(in_memory="disk")
