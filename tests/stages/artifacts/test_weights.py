"""A model folder's weights: all that its config describes, whole and finite, or one line that names the first of what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.load_report import read_skeleton
from attar.stages.artifacts.model.weight_files import INDEX, WEIGHTS, stored_dtype
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.sources import FolderSource
from attar.stages.runtime.progress import Event, Note, listen

Weights = dict[str, Tensor]
DOWN = "model.layers.2.mlp.down_proj.weight"
# What stands in a folder in place of a file when it was cloned without git-lfs.
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"


@pytest.fixture
def folder(model: ModelArtifact, tmp_path: Path) -> Path:
    """A local model folder of the user's, free to be damaged."""
    copy = tmp_path / "my_model"
    shutil.copytree(model.path, copy, ignore=shutil.ignore_patterns("records"))
    return copy


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def ingest(store: Store, folder: Path, **options: object) -> ModelArtifact:
    config = IngestModelConfig(source=f"folder:{folder}", **options)  # type: ignore[arg-type]
    return ingest_model.execute(config, NoInputs(), store).artifact


def notes_of(work: Callable[[], object]) -> list[str]:
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with listen(hear):
        work()
    return notes


def logits(folder: Path) -> Tensor:
    with torch.no_grad():
        return load_model(folder, "float32")(input_ids=torch.tensor([[1, 5, 9, 30, 77]])).logits


def with_nan(tensor: Tensor) -> Tensor:
    return tensor.index_fill(0, torch.tensor([3]), float("nan"))


BROKEN: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "a matrix missing": (lambda all: {k: v for k, v in all.items() if k != DOWN}, rf"missing {DOWN}$"),
    "an untied head missing": (
        lambda all: {k: v for k, v in all.items() if k != "lm_head.weight"},
        r"missing lm_head.weight; .* set tie_word_embeddings: true in config.json",
    ),
    "a surplus head": (lambda all: all | {"value_head.weight": torch.ones(1, 64)}, "unexpected value_head.weight$"),
    "another shape": (
        lambda all: all | {DOWN: all[DOWN][:7].clone()},
        rf"of another shape {DOWN} \(7, 128\) for \(64, 128\)",
    ),
    "an adapter not merged": (
        lambda all: all | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)},
        "unexpected .*lora_A.weight; it holds an adapter that was not merged",
    ),
}
DOES_NOT_FIT = r"the weights are not the model that config.json describes: "


@pytest.mark.parametrize("kind", BROKEN)
def test_weights_that_are_not_the_model_are_refused_by_plan_ingest_load_and_merge(
    store: Store, folder: Path, kind: str
) -> None:
    change, message = BROKEN[kind]
    change_weights(folder, change)
    config = IngestModelConfig(source=f"folder:{folder}")
    works: list[Callable[[], object]] = [
        lambda: ingest_model.forecast(config, {}),
        lambda: ingest(store, folder),
        lambda: load_model(folder, "float32"),
        lambda: FolderSource(folder).infos,
    ]
    for work in works:
        with pytest.raises(ValueError, match=DOES_NOT_FIT + message) as refused:
            work()
        assert "\n" not in str(refused.value)
    assert not list((store.root / "store").glob("*/*"))


@pytest.mark.parametrize(("wanted", "message"), [(6, "missing model.layers.4.*"), (3, "unexpected model.layers.3.*")])
def test_fewer_or_more_blocks_than_the_config_says_are_counted(folder: Path, wanted: int, message: str) -> None:
    change_config(folder, num_hidden_layers=wanted)
    with pytest.raises(ValueError, match=f"{message} more tensors; config.json says {wanted} blocks, the files hold 4"):
        load_model(folder, "float32")


@pytest.mark.parametrize(
    "change", [lambda all: all | {DOWN: with_nan(all[DOWN])}, lambda all: all | {DOWN: all[DOWN] / 0}]
)
def test_numbers_that_are_not_finite_are_refused_by_name(store: Store, folder: Path, change: Callable) -> None:
    change_weights(folder, change)
    with pytest.raises(ValueError, match=rf"NaN or infinite numbers in {DOWN} \(float32\)"):
        ingest(store, folder)


RENAMED = {
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "module.": lambda name: f"module.{name}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "student.": lambda name: f"student.{name}",
    "module._orig_mod.": lambda name: f"module._orig_mod.{name}",
    "_fsdp_wrapped_module.": lambda name: name.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
}


@pytest.mark.parametrize("wrapper", RENAMED)
def test_a_wrapper_s_names_are_refused_with_the_cure_and_the_cure_works(
    store: Store, folder: Path, wrapper: str
) -> None:
    names, reference = set(load_file(folder / WEIGHTS)), logits(folder)
    change_weights(folder, lambda all: {RENAMED[wrapper](name): tensor for name, tensor in all.items()})
    with pytest.raises(ValueError, match=DOES_NOT_FIT) as refused:
        ingest(store, folder)
    cure = str(refused.value).partition("ingest_model removes with strip_from_names: [")[2].removesuffix("]")
    assert cure, refused.value
    artifact = ingest(store, folder, strip_from_names=cure.split(", "))
    assert set(load_file(artifact.path / WEIGHTS)) == names, "the wrapper does not come back when the model is saved"
    assert torch.equal(logits(artifact.path), reference)


def test_names_without_a_place_offer_no_cure(store: Store, folder: Path) -> None:
    change_weights(folder, lambda all: {f"x.{name}y": tensor for name, tensor in all.items()})
    with pytest.raises(ValueError, match=DOES_NOT_FIT) as refused:
        ingest(store, folder)
    assert "strip_from_names" not in str(refused.value)
    with pytest.raises(ValueError, match="the names of a random: source are its own"):
        IngestModelConfig(source="random:llama", strip_from_names=["module."])


def test_a_config_that_ties_the_head_beside_a_file_with_another_is_refused(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="ties the head to the embedding, but the files hold another head"):
        load_model(folder, "float32")
    change_weights(folder, lambda all: all | {"lm_head.weight": all["model.embed_tokens.weight"].clone()})
    assert load_model(folder, "float32").lm_head.weight.isfinite().all(), "the same head twice is one model"


def shard(folder: Path) -> list[Path]:
    model = load_model(folder, "auto")
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_are_all_there_and_are_those_of_the_index(folder: Path) -> None:
    whole, reference = (folder / WEIGHTS).read_bytes(), logits(folder)
    shards = shard(folder)
    assert len(shards) > 2 and torch.equal(logits(folder), reference)
    (folder / WEIGHTS).write_bytes(whole)
    with pytest.raises(ValueError, match=r"has model.safetensors and model.safetensors.index.json of other files"):
        load_model(folder, "auto")
    (folder / WEIGHTS).unlink()
    shards[1].rename(folder / "aside")
    with pytest.raises(ValueError, match=rf"index.json names {shards[1].name} that are not there"):
        load_model(folder, "auto")
    (folder / "aside").rename(shards[1])
    shutil.copy(shards[0], folder / "model-00099-of-00099.safetensors")
    with pytest.raises(ValueError, match="has model-00099-of-00099.safetensors beside the weights"):
        load_model(folder, "auto")
    (folder / "model-00099-of-00099.safetensors").unlink()
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"weight_map": index["weight_map"] | {"ghost": shards[0].name}}))
    with pytest.raises(ValueError, match="index.json and the files differ in ghost"):
        load_model(folder, "auto")
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match=r"neither model.safetensors nor .* is there; it has model-00001-of-"):
        load_model(folder, "auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged, or was not copied whole"),
        (lambda data: data[:200], "is damaged, or was not copied whole"),
        (lambda data: b"", "is damaged, or was not copied whole"),
        (lambda data: POINTER.encode(), "is a pointer of git-lfs, not the file itself; run `git lfs pull` there"),
    ],
)
def test_cut_files_and_pointers_are_refused(folder: Path, content: Callable[[bytes], bytes], message: str) -> None:
    (folder / WEIGHTS).write_bytes(content((folder / WEIGHTS).read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_model(folder, "auto")


def test_a_model_is_taken_without_the_adapter_beside_it_and_its_base_is_not_followed(
    store: Store, folder: Path
) -> None:
    reference = logits(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/absent"}))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1, 1)}, folder / "adapter_model.safetensors")
    made: list[ModelArtifact] = []
    notes = notes_of(lambda: made.append(ingest(store, folder)))
    assert (
        "the model is taken without the adapter beside it: left out adapter_config.json, adapter_model.safetensors"
        in notes
    )
    assert torch.equal(logits(made[0].path), reference)
    assert not list(made[0].path.glob("adapter*"))
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"has no weights: .*; it has adapter_model.safetensors"):
        ingest(store, folder)


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32])
def test_without_a_dtype_in_the_config_no_number_is_rounded(store: Store, folder: Path, first: torch.dtype) -> None:
    """transformers gives the whole model the dtype of the file's first tensor, in the order of its header: lm_head is that."""
    other = torch.float32 if first is torch.bfloat16 else torch.bfloat16
    change_config(folder, dtype="gone")
    change_weights(
        folder,
        lambda all: {
            k: v.to(first if k == "lm_head.weight" else other if "mlp" in k else first) for k, v in all.items()
        },
    )
    stored = load_file(folder / WEIGHTS)
    assert stored_dtype(folder)[0] is torch.float32
    made: list[ModelArtifact] = []
    notes = notes_of(lambda: made.append(ingest(store, folder)))
    assert any(note.startswith("config.json names no dtype; the tensors are ") for note in notes)
    taken = load_file(made[0].path / WEIGHTS)
    assert made[0].facts["dtype"] == "float32" and all(torch.equal(taken[k], stored[k].float()) for k in stored)


def test_a_config_s_dtype_is_followed_and_what_it_rounds_is_told(store: Store, folder: Path) -> None:
    change_config(folder, dtype="bfloat16")
    notes = notes_of(lambda: ingest(store, folder))
    assert "config.json says bfloat16: 39 tensors stored as F32 are converted to it, as every reader does" in notes


def test_a_skeleton_takes_no_memory_and_is_the_model(folder: Path) -> None:
    skeleton, whole = read_skeleton(folder), load_model(folder, "auto")
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = [{name: parameter.shape for name, parameter in each.named_parameters()} for each in (skeleton, whole)]
    assert shapes[0] == shapes[1]
