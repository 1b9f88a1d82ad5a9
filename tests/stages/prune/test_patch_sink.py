"""The first token of a text, which attention uses as a sink and whose state is massive: a patch is fitted on it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.prune.depth.patch import PatchFit, feed_forward_outputs, fold_patch
from attar.compressors.prune.depth.scan import residual_stream
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import mixed_samples
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

REMOVED = 2
# Of the first token's state, in times of what the random blocks write.
MASSIVE = 100.0


def feed_forward_input(model: nn.Module, index: int, ids: torch.Tensor) -> torch.Tensor:
    """Return what the last matrix of a block gets at the first token."""
    seen: list[torch.Tensor] = []
    hook = decoder_blocks(model)[index].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0, 0])
    )
    with torch.no_grad():
        model(input_ids=ids)
    hook.remove()
    return seen[0]


@pytest.fixture
def with_sink(store: Store, model: ModelArtifact, tmp_path: Path) -> ModelArtifact:
    """A model whose block 1 writes a massive activation at the first token, which block 2 takes away again, as trained models do."""
    sink, tokenizer = load_model(model.path, "float32"), load_tokenizer(model.path)
    direction = nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(5)), dim=0)
    for index, amount in ((1, MASSIVE), (2, -MASSIVE)):
        given = feed_forward_input(sink, index, torch.tensor([[tokenizer.bos_token_id]]))
        with torch.no_grad():
            decoder_blocks(sink)[index].mlp.down_proj.weight += (
                amount * torch.outer(direction, given) / given.square().sum()
            )
    sink.save_pretrained(tmp_path / "sink")
    tokenizer.save_pretrained(tmp_path / "sink")
    return ingest_model.execute(IngestModelConfig(source=f"folder:{tmp_path / 'sink'}"), NoInputs(), store).artifact


def errors(original: nn.Module, cut: nn.Module, samples: list[list[int]]) -> tuple[float, float]:
    """Return the squared error of the state after the cut in shares of the window's squared change: at first tokens, at all others."""
    left, change = torch.zeros(2), torch.zeros(2)
    for sample in samples:
        ids = torch.tensor([sample])
        with torch.no_grad(), residual_stream(original) as wanted:
            original(input_ids=ids)
        with torch.no_grad(), residual_stream(cut) as reached:
            cut(input_ids=ids)
        target = wanted[REMOVED + 1]
        left += squares(reached[REMOVED] - target)
        change += squares(wanted[REMOVED] - target)
    first, other = (left / change).tolist()
    return first, other


def squares(difference: torch.Tensor) -> torch.Tensor:
    """Return the summed squares of the first token, and of all others."""
    of_tokens = difference[0].square().sum(-1)
    return torch.stack([of_tokens[0], of_tokens[1:].sum()])


@pytest.mark.parametrize(
    "options",
    [{"kind": "linear", "weight": "none"}, {"kind": "linear", "weight": "norm"}, {"kind": "refit"}],
    ids=lambda options: "-".join(options.values()),
)
def test_a_patch_gives_the_first_token_its_state_too(
    store: Store, with_sink: ModelArtifact, questions: DatasetArtifact, options: dict[str, str]
) -> None:
    config = PruneConfig(blocks=[REMOVED], patch={**options, "precision": "float32"})
    patched = prune.execute(config, PruneInputs(model=with_sink, data=(questions,)), store).artifact
    original = load_model(with_sink.path, "float32")
    samples = mixed_samples(with_sink.path, (questions,), config.patch.num_samples, config.patch.max_tokens)
    assert {sample[0] for sample in samples} == {load_tokenizer(with_sink.path).bos_token_id}
    first, other = errors(original, load_model(patched.path, "float32"), samples)
    # measured: 0.03, 0.015 and 0.003 at first tokens, 0.16, 0.17 and 0.13 at all others
    assert first < 0.06 and other < 0.3


def test_a_fit_without_first_tokens_is_worse_for_them_than_no_patch(
    with_sink: ModelArtifact, questions: DatasetArtifact
) -> None:
    """What the test above would find were they dropped: other tokens hardly miss them, and their own state explodes."""
    original, cut = load_model(with_sink.path, "float32"), load_model(with_sink.path, "float32")
    samples = mixed_samples(with_sink.path, (questions,), 256, 512)
    fit = PatchFit(1, [REMOVED])
    for sample in samples:
        with torch.no_grad(), residual_stream(original) as states, feed_forward_outputs(original, [REMOVED]) as outputs:
            original(input_ids=torch.tensor([sample]))
        fit.add_states(
            REMOVED, *(state[0, 1:] for state in (outputs[REMOVED - 1], states[REMOVED], states[REMOVED + 1]))
        )
    fold_patch(cut, fit.solve(REMOVED, 1e-2))
    remove_blocks(cut, [REMOVED])
    first, other = errors(original, cut, samples)
    assert first > 1.5 and other < 0.3  # measured: 2.8 and 0.12
