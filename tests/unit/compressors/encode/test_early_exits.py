"""Exits of an encoder: each is the model cut there, learns with its share, and teaches only blocks before it; a graph ends where two agree."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from attar.compressors.distill.examples.sentences import Sentence, SentenceBatch, collated
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.loop.copies import at_exits
from attar.compressors.distill.loop.sentences import SentenceTexts
from attar.compressors.distill.losses.embeddings.pairs import PairContrast
from attar.compressors.distill.losses.embeddings.taught import EmbeddingDistance, TokenDistance
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.weights.coefficients import LinearRamp
from attar.compressors.distill.teachers.encoder import EncoderStudent, Vectors
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.encode.early_exits import ExitVectors, exit_name
from attar.compressors.encode.encoder import Pooling, SentenceEncoder
from attar.compressors.encode.session import DEPTH, MIN_AGREEMENT, VECTORS, GraphEncoder
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES, random_encoder

EXITS, BLOCKS, WIDTH = (1, 2, 4), 4, 32
TEXTS = [[5, 9, 200, 31, 7], [8, 8, 40], [100, 3, 77, 12]]


def encoder_of(family: str = "bert", pooling: str = "mean") -> SentenceEncoder:
    model, _ = random_encoder(family, num_blocks=BLOCKS, hidden_size=WIDTH)
    return SentenceEncoder(model, Pooling(kind=pooling, is_normalized=True)).eval()


def batch_of(*, is_paired: bool = False) -> SentenceBatch:
    if is_paired:
        return collated([Sentence(ids, other=[*ids[:2], 60, 61]) for ids in TEXTS])
    return collated([Sentence(ids) for ids in TEXTS])


def loss_of(
    student: EncoderStudent, reduction: Reduction, exits: tuple[int, ...], batch: SentenceBatch
) -> torch.Tensor:
    """The loss toward a teacher that is drawn by a seed, at every exit as the loop takes it."""
    student.reads = ("token_states",)
    output = student(batch)
    generator = torch.Generator().manual_seed(3)
    tokens = {"token_states": torch.randn(int(batch.attention_mask.sum()), WIDTH, generator=generator)}
    teachers = Teachers(teacher=Vectors(torch.randn(len(batch.input_ids), WIDTH, generator=generator), tokens))
    observed = SentenceTexts(exits).observed(student, output, batch, teachers, {})
    counts = {name: objective.num_terms(batch) for name, objective in reduction.objectives.items()}
    return reduction.loss(observed, counts)[0]


def plain(**objectives: Objective) -> Reduction:
    return Reduction(objectives, dict.fromkeys(objectives, 0.7))


@pytest.mark.parametrize("family", ENCODER_FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_exit_is_the_model_cut_there(family: str, pooling: str) -> None:
    encoder, batch = encoder_of(family, pooling), batch_of()
    made = ExitVectors(encoder, EXITS).embed(batch.input_ids, batch.attention_mask).chunk(len(EXITS), dim=-1)
    learned = EncoderStudent(encoder, EXITS)(batch)
    for index, depth in enumerate(EXITS):
        cut = copy.deepcopy(encoder)
        remove_blocks(cut.model, range(depth, BLOCKS))
        expected = cut.embed(batch.input_ids, batch.attention_mask)
        assert torch.equal(made[index], expected) and torch.equal(learned[index], expected)
    assert not torch.allclose(made[0], made[-1], atol=1e-2)


@pytest.mark.parametrize("depth", EXITS)
def test_an_exit_teaches_only_the_blocks_before_it(depth: int) -> None:
    student = EncoderStudent(encoder_of(), EXITS)
    reduction = at_exits(plain(near=EmbeddingDistance(), tokens=TokenDistance()), EXITS)
    own = {name: weight * name.endswith(exit_name(depth)) for name, weight in reduction.weights.items()}
    loss_of(student, Reduction(reduction.objectives, own), EXITS, batch_of()).backward()
    for index, block in enumerate(decoder_blocks(student.model)):
        size = sum(float(p.grad.abs().sum()) for p in block.parameters() if p.grad is not None)
        assert (size > 0) == (index < depth), (index, size)


def test_the_loss_is_the_sum_of_the_cuts_by_their_depth() -> None:
    encoder, batch = encoder_of(), batch_of()
    reduction = plain(near=EmbeddingDistance(), tokens=TokenDistance())
    together = loss_of(EncoderStudent(encoder, EXITS), at_exits(reduction, EXITS), EXITS, batch)
    expected = torch.zeros(())
    for depth in EXITS:
        cut = copy.deepcopy(encoder)
        remove_blocks(cut.model, range(depth, BLOCKS))
        expected = expected + depth / BLOCKS * loss_of(EncoderStudent(cut), reduction, (), batch)
    assert torch.allclose(together, expected, rtol=1e-5)
    assert at_exits(reduction, EXITS).weights == pytest.approx(
        {f"{name}_exit_{depth}": 0.7 * depth / BLOCKS for name in ("near", "tokens") for depth in EXITS}
    )


def test_a_single_exit_at_the_end_is_plain_training() -> None:
    losses, gradients = [], []
    for exits in ((), (BLOCKS,)):
        student, reduction = (
            EncoderStudent(encoder_of(), exits),
            plain(near=EmbeddingDistance(), tokens=TokenDistance()),
        )
        loss = loss_of(student, at_exits(reduction, exits) if exits else reduction, exits, batch_of())
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    assert torch.equal(*losses) and all(map(torch.equal, *gradients))


def test_a_schedule_of_an_objective_is_one_of_its_exits() -> None:
    ramp = LinearRamp(parameter="weight", end=2.0, by="step")
    whole = Reduction({"near": EmbeddingDistance()}, {"near": 1.0}, schedules={"near": (ramp,)})
    for clock in (Clock(0, 4, 0, 1), Clock(3, 4, 0, 1)):
        expected = whole.at(clock).weights["near"]
        now = at_exits(whole, EXITS).at(clock).weights
        assert now == pytest.approx({f"near_exit_{depth}": expected * depth / BLOCKS for depth in EXITS})


def test_a_pair_is_told_from_the_others_of_its_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 8, generator=generator, requires_grad=True)
    views = SentenceTexts().observed(EncoderStudent(encoder_of()), vectors, batch_of(is_paired=True), Teachers(), {})
    loss, sums = Reduction({"own": PairContrast(temperature=0.2)}, {"own": 1.0}).loss(views, {"own": 3})
    unit = torch.nn.functional.normalize(vectors.detach(), dim=-1)
    scores = unit[0::2] @ unit[1::2].T / 0.2
    by_hand = -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()).mean() / 2
    assert torch.allclose(loss, by_hand) and sums["own"][1] == 3
    loss.backward()
    better = vectors.detach() - 0.5 * vectors.grad  # type: ignore[operator] - it was asked for
    unit = torch.nn.functional.normalize(better, dim=-1)
    assert float((unit[0::2] * unit[1::2]).sum()) > float((scores * 0.2).diagonal().sum())
    assert PairContrast().num_terms(collated([Sentence([4], other=[5])])) == 0, (
        "alone it has nothing to be runner_of_depth from"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_graph_ends_where_two_exits_agree(tmp_path: Path, family: str) -> None:
    pytest.importorskip("onnxruntime")
    from attar.compressors.encode.early_graph import export_early
    from attar.stages.artifacts.onnx_folder import write_graph
    from attar.stages.artifacts.onnx_session import open_session

    encoder, batch = encoder_of(family), batch_of()
    write_graph(export_early(encoder, EXITS, 2.0), tmp_path)
    session = open_session(tmp_path)
    made = ExitVectors(encoder, EXITS).embed(batch.input_ids, batch.attention_mask).chunk(len(EXITS), dim=-1)
    agreement = float(torch.cosine_similarity(made[0], made[1], dim=-1).min())
    ends = {agreement - 0.01: 1, agreement + 0.01: 2, None: 2}
    for threshold, index in ends.items():
        settings = {} if threshold is None else {MIN_AGREEMENT: threshold}
        runner = GraphEncoder(session, "CPUExecutionProvider", settings=settings)
        assert torch.allclose(runner.embed(batch.input_ids, batch.attention_mask), made[index], atol=1e-5)
        runner_of_depth = GraphEncoder(session, "CPUExecutionProvider", DEPTH, settings=settings)
        given = {
            "input_ids": batch.input_ids.numpy(),
            "attention_mask": batch.attention_mask.numpy(),
            **runner_of_depth._settings,
        }
        assert int(session.run([DEPTH], given)[0]) == EXITS[index]
    assert [entry.name for entry in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert VECTORS in [entry.name for entry in session.get_outputs()]
