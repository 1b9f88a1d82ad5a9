"""The prune stage with a patch: fitted on rows or text, and refused where it has nothing to stand on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attar.compressors.models.exits import feed_forward_exit
from attar.compressors.prune.depth.patch import PatchFit, fold_patch
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import mixed_samples, training_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune


def test_patched_cut_is_a_plain_model_closer_to_the_original_on_its_rows(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    kl_between: Callable[[ModelArtifact, ModelArtifact, list[int]], float],
) -> None:
    cut = prune.execute(PruneConfig(blocks=[2]), PruneInputs(model=model), store).artifact
    config = PruneConfig(blocks=[2], patch={"kind": "linear"})
    patched = prune.execute(config, PruneInputs(model=model, data=(questions,)), store).artifact
    assert patched.facts["num_parameters"] == cut.facts["num_parameters"]
    sample = training_samples(model.path, questions, 1, 64)[0]

    assert kl_between(model, patched, sample) < 0.7 * kl_between(model, cut, sample)
    metrics = [json.loads(line) for line in (patched.path / "records" / "metrics.jsonl").read_text().splitlines()]
    [left] = [entry["value"] for entry in metrics if entry["name"] == "patch_residual_fraction"]
    assert 0.0 < left < 1.0


@pytest.mark.parametrize("removed", [[1], [2, 3]], ids=["middle", "end"])
def test_a_patch_that_walks_no_further_than_its_window_is_that_of_the_whole_model(
    removed: list[int], store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = PruneConfig(blocks=removed, patch={"kind": "linear", "precision": "float32"})
    patched = load_model(
        prune.execute(config, PruneInputs(model=model, data=(questions,)), store).artifact.path, "auto"
    )
    whole = load_model(model.path, "float32")
    fit = PatchFit(len(removed), [removed[0]], is_weighted=True)
    for sample in mixed_samples(model.path, (questions,), config.patch.num_samples, config.patch.max_tokens):
        ids = torch.tensor([sample])
        fit.update(whole, ids, torch.ones_like(ids))
    fold_patch(whole, fit.solve(removed[0], config.patch.ridge))
    torch.testing.assert_close(
        feed_forward_exit(patched, removed[0] - 1).weight, feed_forward_exit(whole, removed[0] - 1).weight
    )


def test_a_patch_is_fitted_in_the_precision_asked_for_and_the_model_keeps_its_own(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    inputs = PruneInputs(model=model, data=(questions,))
    matrices = {}
    for precision in ("float32", "bfloat16"):
        config = PruneConfig(blocks=[2], patch={"kind": "linear", "precision": precision})
        patched = load_model(prune.execute(config, inputs, store).artifact.path, "auto")
        matrices[precision] = feed_forward_exit(patched, 1).weight
    before = feed_forward_exit(load_model(model.path, "auto"), 1).weight
    assert {matrix.dtype for matrix in matrices.values()} == {before.dtype} == {torch.float32}
    apart = (matrices["bfloat16"] - matrices["float32"]).norm()
    assert 0.0 < apart < 0.05 * (matrices["float32"] - before).norm()


def test_refit_repairs_blocks_that_lie_apart_and_leaves_what_lies_before_the_cut(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    kl_between: Callable[[ModelArtifact, ModelArtifact, list[int]], float],
) -> None:
    cut = prune.execute(PruneConfig(blocks=[1, 3]), PruneInputs(model=model), store).artifact
    config = PruneConfig(blocks=[1, 3], patch={"kind": "refit", "precision": "float32"})
    inputs = PruneInputs(model=model, data=(questions, questions))
    repaired = prune.execute(config, inputs, store).artifact
    assert repaired.facts == cut.facts
    sample = training_samples(model.path, questions, 1, 64)[0]

    assert kl_between(model, repaired, sample) < 0.5 * kl_between(model, cut, sample)
    metrics = [json.loads(line) for line in (repaired.path / "records" / "metrics.jsonl").read_text().splitlines()]
    left = {entry["step"]: entry["value"] for entry in metrics if entry["name"] == "refit_residual_fraction"}
    assert left.keys() == {0, 1}
    assert all(0.0 < value < 1.0 for value in left.values())


def test_several_data_sets_are_read_in_equal_shares(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    (tmp_path / "story.txt").write_text("The boat came in at dawn. " * 40)
    config = IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}", heldout_fraction=0.0)
    text = ingest_data.execute(config, NoInputs(), store).artifact
    samples = mixed_samples(model.path, (text, questions), 5, 32)
    from_text = [ids for ids in samples if ids in training_samples(model.path, text, 3, 32)]
    assert (len(samples), len(from_text)) == (5, 3)
    assert [len(ids) for ids in samples] == sorted(map(len, samples))


def test_text_is_cut_into_pieces_and_short_rows_are_kept(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("The boat came in at dawn. " * 20)
    config = IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}", heldout_fraction=0.0)
    text = ingest_data.execute(config, NoInputs(), store).artifact
    samples = training_samples(model.path, text, 100, 64)
    assert sum(map(len, samples)) == len("The boat came in at dawn. " * 20)
    assert max(map(len, samples)) == 64
    assert len(training_samples(model.path, text, 3, 64)) == 3


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        (
            {"blocks": [2], "patch": "linear"},
            {},
            "the input `data` is for patches 'linear' and 'refit', and needed there",
        ),
        ({"blocks": [2]}, {"data": ({},)}, "the input `data` is for patches 'linear' and 'refit'"),
        ({"blocks": [1, 3], "patch": "linear"}, {"data": ({},)}, r"blocks \[1, 3\] are not one window"),
    ],
)
def test_patch_without_a_footing_is_refused(config: dict, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.forecast(PruneConfig(**config), {"model": ({},), **inputs})


def test_patch_before_the_first_block_is_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = PruneConfig(blocks=[0], patch={"kind": "linear"})
    with pytest.raises(ValueError, match="the window may not begin at block 0"):
        prune.execute(config, PruneInputs(model=model, data=(questions,)), store)


def test_a_patch_is_work_for_all_threads() -> None:
    """Without one, a cut mostly copies files, and may run beside a heavy stage on one thread."""
    assert prune.is_light(PruneConfig(blocks=[1]))
    assert not any(prune.is_light(PruneConfig(blocks=[1], patch={"kind": patch})) for patch in ("linear", "refit"))
