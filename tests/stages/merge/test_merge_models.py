"""Merging whole models: every method, the same bytes twice, shards, dtypes, memory, an interruption, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from attar.compressors.catalogue import build
from attar.compressors.merge.methods import MERGE_METHODS
from attar.registry.artifacts.fingerprint import folder_digests
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.tensor_files import TensorInfo
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.sources import FolderSource
from attar.stages.merge.stage import merge
from attar.stages.merge.stream import MergeOrder, write_merged
from attar.stages.runtime.progress import Event, Metric, Note, listen

MAX_BYTES = 10**9


def perturbed(
    store: Store, model: ModelArtifact, seed: int, home: Path, change: Callable | None = None
) -> ModelArtifact:
    """The model with other weights, ingested from a folder."""
    folder = home / f"perturbed_{seed}"
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns("records"))
    state = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    save_file(change(state) if change else state, folder / "model.safetensors", metadata={"format": "pt"})
    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact


@pytest.fixture(scope="module")
def students(
    shared_store: Store, model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelArtifact, ModelArtifact]:
    home = tmp_path_factory.mktemp("students")
    return perturbed(shared_store, model, 1, home), perturbed(shared_store, model, 2, home)


@pytest.mark.parametrize("name", MERGE_METHODS)
def test_every_method_gives_a_model_that_loads_and_the_same_bytes_twice(
    name: str, store: Store, model: ModelArtifact, students: tuple
) -> None:
    inputs = MergeInputs(base=model, students=students)
    made = [merge.execute(MergeConfig(method=name), inputs, store, is_forced=True).artifact for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint
    loaded = load_model(made[0].path, "auto")
    assert loaded(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()
    assert made[0].facts == model.facts | {"dtype": "float32"}
    assert load_tokenizer(made[0].path).chat_template == load_tokenizer(model.path).chat_template
    merged, base = (load_file(artifact.path / "model.safetensors") for artifact in (made[0], model))
    assert merged.keys() == base.keys()
    assert not any(torch.equal(merged[name], base[name]) for name in merged)


def test_slerp_tells_how_many_tensors_took_the_straight_line(
    store: Store, model: ModelArtifact, students: tuple
) -> None:
    def events_of(second: ModelArtifact, **params: object) -> tuple[set[str], dict[str, float]]:
        events: list[Event] = []
        with listen(events.append):
            inputs = MergeInputs(base=model, students=(students[0], second))
            merge.execute(MergeConfig(method="slerp", params=params), inputs, store)
        notes = {event.text for event in events if isinstance(event, Note) and event.text.startswith("tensors by")}
        metrics = {event.name: event.value for event in events if isinstance(event, Metric)}
        return notes, {name: value for name, value in metrics.items() if name.startswith("num_")}

    num_tensors = len(load_file(model.path / "model.safetensors"))
    notes, metrics = events_of(students[1], lerp_above=0.01)  # two changes of one model: cosine about 0.9
    assert notes == {f"tensors by branch: lerp {num_tensors}"} and metrics == {"num_lerp_tensors": num_tensors}
    notes, metrics = events_of(students[1], on="deltas")  # independent changes: nowhere near parallel
    assert notes == {f"tensors by branch: slerp {num_tensors}"} and metrics == {"num_slerp_tensors": num_tensors}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_merged_by_the_names_of_its_files(family: str, store: Store, tmp_path: Path) -> None:
    base = ingest_model.execute(IngestModelConfig(source=f"random:{family}?num_blocks=2"), NoInputs(), store).artifact
    pair = (perturbed(store, base, 1, tmp_path), perturbed(store, base, 2, tmp_path))
    merged = merge.execute(MergeConfig(method="linear"), MergeInputs(students=pair), store).artifact
    states = [dict(load_model(artifact.path, "float32").state_dict()) for artifact in (merged, *pair)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, (states[1][name] + states[2][name]) / 2, msg=f"{family} {name}")
    assert merged.facts == {**base.facts, **merged.facts}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "phi3"])
def test_adapters_and_trained_weights_find_their_files_names(
    family: str, store: Store, questions: DatasetArtifact
) -> None:
    """Matrices stored (in, out), a head that files call otherwise, a tied head, fused projections."""
    base = ingest_model.execute(IngestModelConfig(source=f"random:{family}?num_blocks=2"), NoInputs(), store).artifact
    inputs = FinetuneInputs(model=base, data=(questions,))
    schedule = {"num_epochs": 1, "learning_rate": 5e-3, "tokens_per_step": 512}
    options = {"schedule": schedule, "compute": {"precision": "float32"}}
    adapter = finetune.execute(FinetuneConfig(adapt={"rank": 2}, **options), inputs, store).artifact  # type: ignore[arg-type]
    folded = merge.execute(MergeConfig(), MergeInputs(base=base, students=(adapter,)), store).artifact  # checks logits
    trained = finetune.execute(
        FinetuneConfig(adapt={"kind": "last_blocks", "num_blocks": 1}, **options), inputs, store
    ).artifact  # type: ignore[arg-type]
    whole = merge.execute(MergeConfig(), MergeInputs(base=base, students=(trained,)), store).artifact
    state, weights = load_model(whole.path, "float32").state_dict(), load_file(trained.path / "weights.safetensors")
    assert weights and all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert folded.fingerprint != whole.fingerprint != base.fingerprint


def test_shards_hold_the_same_tensors_and_load(store: Store, model: ModelArtifact, students: tuple) -> None:
    inputs = MergeInputs(base=model, students=students)
    whole = merge.execute(MergeConfig(method="ties"), inputs, store).artifact
    sharded = merge.execute(MergeConfig(method="ties", max_shard_bytes=100_000), inputs, store).artifact
    files = sorted(sharded.path.glob("*.safetensors"))
    index = json.loads((sharded.path / "model.safetensors.index.json").read_text())
    assert len(files) > 3 and {path.name for path in files} == set(index["weight_map"].values())
    tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    expected = load_file(whole.path / "model.safetensors")
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert sum(tensor.nbytes for tensor in tensors.values()) == index["metadata"]["total_size"]
    assert all(path.stat().st_size < 110_000 or len(load_file(path)) == 1 for path in files)
    for name, tensor in load_model(sharded.path, "auto").state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_sums_are_float32_whatever_dtype_is_read_and_written(
    store: Store, model: ModelArtifact, students: tuple
) -> None:
    inputs = MergeInputs(base=model, students=students)
    exact = merge.execute(MergeConfig(method="linear"), inputs, store).artifact
    rounded = merge.execute(MergeConfig(method="linear", dtype="bfloat16"), inputs, store).artifact
    assert rounded.facts["dtype"] == "bfloat16" and load_model(rounded.path, "auto").dtype == torch.bfloat16
    tensors, expected = (load_file(artifact.path / "model.safetensors") for artifact in (rounded, exact))
    assert all(torch.equal(tensors[name], expected[name].bfloat16()) for name in tensors)
    again = merge.execute(MergeConfig(method="linear"), MergeInputs(students=(rounded, students[0])), store).artifact
    assert again.facts["dtype"] == "bfloat16", "the first student's"
    mixed = load_file(again.path / "model.safetensors")
    first = load_file(students[0].path / "model.safetensors")
    assert all(torch.equal(mixed[name], ((tensors[name].float() + first[name]) / 2).bfloat16()) for name in mixed)


class Breaks:
    """A source that is interrupted at its n-th tensor, as by Ctrl-C."""

    def __init__(self, source: FolderSource, num_reads: int) -> None:
        self.source, self.num_left = source, num_reads
        self.infos: dict[str, TensorInfo] = dict(source.infos)

    def read(self, name: str) -> Tensor:
        self.num_left -= 1
        if self.num_left < 0:
            raise KeyboardInterrupt
        return self.source.read(name)


def test_an_interrupted_merge_goes_on_behind_its_last_whole_shard(
    tmp_path: Path, model: ModelArtifact, students: tuple
) -> None:
    first, second = (FolderSource(student.path) for student in students)
    method, base = build(MERGE_METHODS, "slerp", {"on": "deltas"}), FolderSource(model.path)
    write_merged(MergeOrder(method, (first, second), base, None, 100_000), tmp_path / "whole", tmp_path / "s")
    order = MergeOrder(method, (first, Breaks(second, 20)), base, None, 100_000)
    with pytest.raises(KeyboardInterrupt):
        write_merged(order, tmp_path / "again", tmp_path / "scratch")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "scratch").glob("model-*.safetensors")}
    assert inodes and not (tmp_path / "again").exists(), "nothing half-written"
    order = MergeOrder(method, (first, Breaks(second, 20)), base, None, 100_000)
    with pytest.raises(KeyboardInterrupt):  # 20 more: it has gone on, not begun again
        write_merged(order, tmp_path / "again", tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").glob("model-*.safetensors"))) > len(inodes)
    assert all(path.stat().st_ino == inode for path, inode in inodes.items())
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        order = MergeOrder(method, (first, second), base, None, 100_000)
        branches = write_merged(order, tmp_path / "again", tmp_path / "scratch")
    assert sum("is there from an interrupted run" in note for note in notes) > len(inodes)
    assert folder_digests(tmp_path / "again") == folder_digests(tmp_path / "whole")
    assert sum(branches.branches.values()) == len(base.infos) and not (tmp_path / "scratch").exists()


MEASURE = """
import re, sys
from pathlib import Path
import torch
from attar.compressors.catalogue import build
from attar.compressors.merge.methods import MERGE_METHODS
from attar.stages.merge.sources import FolderSource
from attar.stages.merge.stream import MergeOrder, write_merged
torch.set_num_threads(1)
home, small = Path(sys.argv[1]), Path(sys.argv[2])

def resident(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def run(name, folders):
    base, *students = map(FolderSource, folders)
    order = MergeOrder(build(MERGE_METHODS, name), tuple(students), base, None, 10**9)
    write_merged(order, home / "merged", home / "scratch")

for name in sys.argv[3:]:
    run(name, [small] * 3)  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before = resident("VmRSS")
    run(name, [home / one for one in ("base", "a", "b")])
    print(name, resident("VmHWM") - before)
"""


def test_memory_is_that_of_a_tensor_not_of_a_model(
    tmp_path: Path, model: ModelArtifact, clean_environment: dict[str, str]
) -> None:
    config = json.loads((model.path / "config.json").read_text())
    sizes = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 768, "num_hidden_layers": 24}
    for name in ("base", "a", "b"):
        shutil.copytree(model.path, tmp_path / name, ignore=shutil.ignore_patterns("records", "*.safetensors"))
        (tmp_path / name / "config.json").write_text(json.dumps(config | sizes))
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / name))
        generator = torch.Generator().manual_seed(ord(name[0]))
        state = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in skeleton.state_dict().items()}
        save_file(state, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    num_bytes = (tmp_path / "base" / "model.safetensors").stat().st_size
    largest = max(tensor.nbytes for tensor in state.values())
    measured = ("linear", "slerp", "ties", "dare_ties", "karcher")  # one of each way of reading
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(model.path), *measured],
        env=clean_environment | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    grown = {name: int(num) for name, num in map(str.split, done.stdout.splitlines())}
    assert tuple(grown) == measured and all(num > 0 for num in grown.values())
    # three models, and chunks of them in float32, float64 and random numbers; far below one model
    assert max(grown.values()) < 3 * largest + 30e6 < num_bytes / 2, (grown, largest, num_bytes)


def refusal(method: str, students: tuple, base: ModelArtifact | None, store: Store, **config: object) -> str:
    before = {path for path in store.root.rglob("*") if path.suffix == ".safetensors"}
    with pytest.raises(ValueError) as caught:
        merge.execute(MergeConfig(method=method, **config), MergeInputs(base=base, students=students), store)
    assert {path for path in store.root.rglob("*") if path.suffix == ".safetensors"} == before, "nothing half-written"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_models_that_do_not_fit_together_are_refused(
    store: Store, model: ModelArtifact, students: tuple, tmp_path: Path
) -> None:
    def other(source: str) -> ModelArtifact:
        return ingest_model.execute(IngestModelConfig(source=source), NoInputs(), store).artifact

    qwen = other("random:qwen3?num_blocks=4&hidden_size=64")
    assert "student 1 is a qwen3 model, base a llama model" in refusal("ties", (qwen, students[0]), model, store)
    wide = other("random:llama?num_blocks=4&hidden_size=32")
    assert "(259, 32) in student 2: they cannot be merged" in refusal("linear", (students[0], wide), None, store)
    deep = other("random:llama?num_blocks=5&hidden_size=64")
    message = refusal("slerp", (students[0], deep), model, store)
    assert "student 2 has a tensor model.layers.4.input_layernorm.weight that base has not" in message

    def with_nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state["model.norm.weight"][3] = float("nan")
        return state

    broken = perturbed(store, model, 5, tmp_path)  # no door lets such numbers in: they come from a disk that fails
    state = with_nan(load_file(broken.path / "model.safetensors"))
    save_file(state, broken.path / "model.safetensors", metadata={"format": "pt"})
    message = refusal("karcher", (students[0], broken), None, store)
    assert message == "model.norm.weight of student 2 holds a number that is not finite (NaN or infinity)"


def test_what_a_method_needs_is_asked_for(store: Store, model: ModelArtifact, students: tuple) -> None:
    for method in ("task_arithmetic", "ties", "dare_linear", "dare_ties", "model_stock"):
        assert f"method: {method!r} starts from a common base" in refusal(method, students, None, store)
    assert "starts from a common base" in refusal("slerp", students, None, store, params={"on": "deltas"})
    for method in ("linear", "slerp", "ties", "model_stock", "karcher"):
        assert f"students: method {method!r} takes 2" in refusal(method, students[:1], model, store)
    assert "students: method 'fold' takes 1, not 2" in refusal("fold", students, model, store)
    rules = [{"filter": "self_atn", "value": 0.2}, {"value": 0.5}]
    assert "filter 'self_atn' fits no tensor" in refusal("slerp", students, model, store, params={"t": rules})
