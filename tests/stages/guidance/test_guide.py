"""Guidance in one pass, learned and measured on a small model that really follows its prompt."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.guidance.gap import GuidedText, answer_logits, measure_gap
from attar.compressors.guidance.graph import SCALE_NAME, GuidedGraph
from attar.compressors.guidance.scores import guided_scores
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.guidance_files import WEIGHTS_FILE, check_base, load_guidance
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, save_model
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.guided import prove_scale
from attar.stages.export.stage import export
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.guidance.data.config import GuideDataConfig
from attar.stages.guidance.data.stage import GuideDataInputs, guide_data
from attar.stages.guidance.stage import guide
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import random_model
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.runtime.progress import listen
from tests.killed import kill_after_step

LETTERS = "abcdefghijkl"
STYLES = 6
NUM_NEW = 16
DRAW = GuideDataConfig(
    scales={"min": 1.0, "max": 3.0, "unseen": 2.0},
    drawing={"num_samples": 6, "max_new_tokens": NUM_NEW},
    num_recorded=259,
    batch_size=64,
    precision="float32",
)
TRAINING = {
    "schedule": {"num_epochs": 8, "learning_rate": 1e-2, "tokens_per_step": 2048},
    "compute": {"tokens_per_micro_batch": 4096, "precision": "float32"},
    "heldout": {"every": 10, "patience": 0},
}
GUIDE = GuideConfig(rank=32, num_tokens=16, num_heads=2, training=TRAINING, num_gate_rows=64)  # type: ignore[arg-type]


def question(style: int, number: int) -> str:
    return f"{'uvwxyz'[style]}{number:03d}"


def chains() -> torch.Tensor:
    """Six Markov chains over the letters: one common part, tilted by the style."""
    generator = torch.Generator().manual_seed(5)
    common, tilt = torch.randn(12, 12, generator=generator), torch.randn(STYLES, 12, 12, generator=generator)
    return (common + 0.8 * tilt).softmax(dim=-1)


def teach(model: PreTrainedModel, tokenizer, num_steps: int, seed: int, learning_rate: float = 3e-3) -> None:
    """Train a model to answer in the style asked for, and with the prompt dropped to write any style."""
    generator, probs = torch.Generator().manual_seed(seed), chains()
    letters = torch.tensor([tokenizer(letter).input_ids[0] for letter in LETTERS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(num_steps):
        styles = torch.randint(STYLES, (48,), generator=generator)
        path = [torch.randint(12, (48,), generator=generator)]
        for _ in range(NUM_NEW):
            path.append(torch.multinomial(probs[styles, path[-1]], 1, generator=generator)[:, 0])
        answers = letters[torch.stack(path, dim=1)]
        numbers = torch.randint(1000, (48,), generator=generator).tolist()
        prompts = [
            chat_prompt(tokenizer, question(style, number))
            for style, number in zip(styles.tolist(), numbers, strict=True)
        ]
        ids = torch.cat([torch.tensor(prompts), answers], dim=1)
        loss = torch.zeros(())
        for first, part in ((len(prompts[0]), ids), (1, ids[:, len(prompts[0]) - 1 :])):
            logits = model(input_ids=part, use_cache=False).logits[:, first - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, first:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def taught(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[ModelArtifact]:
    """A model that follows its prompt, and the same model tuned a little further."""
    model, tokenizer = random_model("llama", num_blocks=2)
    models = []
    for seed, num_steps in ((0, 250), (1, 10)):
        teach(model.train(), tokenizer, num_steps, seed, 3e-3 if seed == 0 else 3e-4)
        folder = tmp_path_factory.mktemp("taught")
        save_model(model.eval(), folder)
        tokenizer.save_pretrained(folder)
        config = IngestModelConfig(source=f"folder:{folder}")
        models.append(ingest_model.execute(config, NoInputs(), shared_store).artifact)
    return models


@pytest.fixture(scope="module")
def guide_questions(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    """Ninety-six questions, a quarter held out and, as before there were three parts, read by the evaluations too."""
    numbers = random.Random(0)
    rows = [{"question": question(i % STYLES, numbers.randrange(1000)), "answer": "?"} for i in range(96)]
    path = tmp_path_factory.mktemp("asked") / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.25, choose_fraction=0.0)
    return ingest_data.execute(config, NoInputs(), shared_store).artifact


@pytest.fixture(scope="module")
def drawn(shared_store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact) -> DatasetArtifact:
    return guide_data.execute(DRAW, GuideDataInputs(model=taught[0], data=guide_questions), shared_store).artifact


def learn(store: Store, config: GuideConfig, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    return guide.execute(config, GuideInputs(model=taught[0], data=(drawn,), second=taught[1]), store).artifact


@pytest.fixture(scope="module")
def cross(shared_store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    return learn(shared_store, GUIDE, taught, drawn)


def test_one_pass_is_close_to_two_at_new_prompts_scales_and_checkpoints(cross: AdapterArtifact) -> None:
    ratios = {name: float(cross.facts[f"kl_ratio_{name}"]) for name in ("seen", "unseen", "second")}
    assert max(ratios.values()) <= 0.6


def test_gradient_checkpointing_gives_the_same_adapters_bit_for_bit(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    saved = []
    for is_checkpointed in (False, True):
        compute = {"gradient_checkpointing": is_checkpointed}
        training = GUIDE.training.with_changes(schedule={"max_steps": 3}, compute=compute)
        config = GuideConfig(**{**GUIDE.model_dump(), "training": training, "max_kl_ratio": 100.0, "num_gate_rows": 4})
        saved.append(
            {path.name: load_file(path) for path in learn(store, config, taught, drawn).path.glob("*.safetensors")}
        )
    whole, again = saved
    assert whole.keys() == again.keys() and whole
    for name, weights in whole.items():
        assert weights and all(torch.equal(value, again[name][key]) for key, value in weights.items())


def test_rows_keep_away_from_the_unseen_scale_and_record_what_they_were_drawn_from(
    taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    rows = read_rows(drawn.path / "rows.jsonl")
    scales = [row.guidance_scale or 0.0 for row in rows if row.split == "train"]
    assert len(scales) > 300 and min(abs(scale - 2.0) for scale in scales) >= 0.15
    assert 1.0 <= min(scales) < 1.1 and 2.9 < max(scales) <= 3.0
    heldout = [row for row in rows if row.split == "heldout"]
    assert {row.guidance_scale == 2.0 for row in heldout} == {True, False}
    # two passes over the finished text, without a cache, say what was recorded while writing with two
    model = load_model(taught[0].path, torch.float32)
    record = TeacherRecord(drawn.path)
    for row in rows[:6]:
        logits = [answer_logits(model, part, row.answer_ids) for part in (row.prompt_ids, row.unguided_ids)]
        expected = guided_scores(*logits, row.guidance_scale or 0.0).log_softmax(-1)
        ids, logprobs = record.of(row) or (torch.empty(0), torch.empty(0))
        likely = expected.gather(-1, ids.long()).detach()
        assert (likely.exp() - logprobs.exp()).abs().max() < 2e-3, "stored in 16 bits"


def test_at_scale_one_and_switched_off_a_trained_model_is_the_base_bit_for_bit(
    taught: list[ModelArtifact], cross: AdapterArtifact
) -> None:
    model = load_model(taught[0].path, torch.float32)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        adapters = load_guidance(cross.path, model)
        adapters.attach(model)
        assert torch.equal(model(input_ids=ids).logits, plain), "off"
        with adapters.at(1.0):
            assert torch.equal(model(input_ids=ids).logits, plain)
        with adapters.at(2.0):
            guided = model(input_ids=ids).logits
        with adapters.at(torch.tensor([3.0])):
            top = model(input_ids=ids).logits
        with adapters.at(50.0):
            assert torch.equal(model(input_ids=ids).logits, top), "clamped to the trained range"
        assert not torch.equal(guided, plain) and not torch.equal(guided, top)
        with adapters.at(torch.tensor([1.0, 2.0])):  # a scale a row
            both = model(input_ids=ids.repeat(2, 1)).logits
    torch.testing.assert_close(both[:1], plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1:], guided, atol=1e-4, rtol=0)


def test_scales_move_the_distribution_in_order(taught: list[ModelArtifact], cross: AdapterArtifact) -> None:
    """KL to the base grows with the scale, and each scale's pass is nearest to two passes at that scale."""
    model = load_model(taught[0].path, torch.float32)
    tokenizer = load_tokenizer(taught[0].path)
    adapters = load_guidance(cross.path, model)
    adapters.attach(model)
    prompt = chat_prompt(tokenizer, question(2, 999))
    answer = tokenizer("abcabcdefghijkla").input_ids
    scales = (1.0, 1.5, 2.0, 2.5, 3.0)
    with torch.no_grad():
        branches = [answer_logits(model, part, answer) for part in (prompt, prompt[-1:])]
        two = [guided_scores(*branches, scale).log_softmax(-1) for scale in scales]
        scale_logprobs = []
        for scale in scales:
            with adapters.at(scale):
                scale_logprobs.append(answer_logits(model, prompt, answer).log_softmax(-1))
    moved = [float((p.exp() * (p - scale_logprobs[0])).sum(-1).mean()) for p in scale_logprobs]
    assert moved[0] == 0.0 and moved == sorted(moved)
    gaps = torch.tensor([[float((p.exp() * (p - q)).sum(-1).mean()) for q in two] for p in scale_logprobs])
    assert (gaps.argmin(dim=1) - torch.arange(5)).abs().max() <= 1


def test_a_gate_that_is_not_reached_is_refused_and_writes_nothing(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    training = GUIDE.training.with_changes(schedule={"max_steps": 1, "num_epochs": 1})
    config = GuideConfig(rank=8, num_tokens=4, num_heads=1, training=training)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one pass is not guidance on trained scales: .* accepted: max_kl_ratio 0.6"):
        learn(store, config, taught, drawn)
    assert not list(store.artifacts())


def test_a_checkpoint_tuned_too_far_is_refused(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    """Adapters do not carry over to another model; a random one of the same shape stands for one tuned beyond all measure."""
    config = GUIDE.with_changes(training={"schedule": {"num_epochs": 4}})
    other = ingest_model.execute(
        IngestModelConfig(source="random:llama?num_blocks=2&hidden_size=64&seed=9"), NoInputs(), store
    ).artifact
    with pytest.raises(ValueError, match="one pass is not guidance on the second checkpoint"):
        guide.execute(config, GuideInputs(model=taught[0], data=(drawn,), second=other), store)


def test_wrong_models_are_refused(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact, cross: AdapterArtifact, model: ModelArtifact
) -> None:
    with pytest.raises(ValueError, match="drawn from model .* input teacher"):
        guide.execute(GUIDE, GuideInputs(model=taught[1], data=(drawn,)), store)
    with pytest.raises(ValueError, match="passed its gate on .* input `second`"):
        check_base(cross, model)
    for base in taught:
        check_base(cross, base)


def test_sigkill_then_the_same_command_gives_the_same_adapters(
    store: Store,
    taught: list[ModelArtifact],
    drawn: DatasetArtifact,
) -> None:
    training = GUIDE.training.with_changes(schedule={"num_epochs": 3}, checkpoints={"every": 1})
    config = GuideConfig(rank=16, num_tokens=8, num_heads=2, training=training, max_kl_ratio=2.0)  # type: ignore[arg-type]
    whole = learn(Store(store.root / "uninterrupted"), config, taught, drawn)
    kill_after_step(lambda: learn(store, config, taught, drawn), store.root, min_step=2)
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        resumed = learn(store, config, taught, drawn)
    assert any("continuing at step" in note for note in notes)
    actual, reference = (load_file(adapter.path / WEIGHTS_FILE) for adapter in (whole, resumed))
    assert actual.keys() == reference.keys() and all(torch.equal(actual[name], reference[name]) for name in actual)
    assert whole.fingerprint == resumed.fingerprint


@pytest.fixture(scope="module")
def offset(shared_store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    training = GUIDE.training.with_changes(schedule={"num_epochs": 3})
    config = GuideConfig(adapter="offset", rank=16, training=training, max_kl_ratio=1.0)  # type: ignore[arg-type]
    return learn(shared_store, config, taught, drawn)


def test_an_offset_folds_at_a_scale_into_a_plain_model(
    store: Store, taught: list[ModelArtifact], offset: AdapterArtifact
) -> None:
    config = MergeConfig(guidance_scale=2.0)
    merged = merge.execute(config, MergeInputs(base=taught[0], students=(offset,)), store).artifact
    model, plain = load_model(taught[0].path, torch.float32), load_model(merged.path, torch.float32)
    adapters = load_guidance(offset.path, model)
    adapters.attach(model)
    ids = torch.arange(40, 90)[None]
    with torch.no_grad(), adapters.at(2.0):
        expected, folded = model(input_ids=ids).logits, plain(input_ids=ids).logits
    assert (expected - folded).abs().max() < 1e-4
    with torch.no_grad():
        assert (model(input_ids=ids).logits - folded).abs().max() > 1e-2
    assert plain.config.attention_bias and plain.model.layers[0].self_attn.q_proj.bias.abs().max() == 0.0  # type: ignore[union-attr]


def test_what_cannot_be_folded_is_refused_with_the_reason(
    store: Store, taught: list[ModelArtifact], cross: AdapterArtifact, offset: AdapterArtifact
) -> None:
    def refused(adapter: AdapterArtifact, message: str, **config: object) -> None:
        with pytest.raises(ValueError, match=message):
            merge.execute(MergeConfig(**config), MergeInputs(base=taught[0], students=(adapter,)), store)  # type: ignore[arg-type]

    refused(cross, "reads the hidden state and cannot be folded", guidance_scale=2.0)
    refused(offset, "guidance_scale is missing")
    refused(offset, "guidance_scale is 9; trained and accepted: 1 to 3", guidance_scale=9.0)


def test_a_lora_at_one_scale_folds_as_any_other(
    store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact, drawn: DatasetArtifact
) -> None:
    draw = DRAW.with_changes(scales={"min": 2.0, "max": 2.0, "unseen": 0.0})
    at_two = guide_data.execute(draw, GuideDataInputs(model=taught[0], data=guide_questions), store).artifact
    training = GUIDE.training.with_changes(schedule={"num_epochs": 4}, adapt={"rank": 8})
    config = GuideConfig(adapter="lora", training=training)  # type: ignore[arg-type]
    adapter = guide.execute(config, GuideInputs(model=taught[0], data=(at_two,)), store).artifact
    assert float(adapter.facts["kl_ratio_seen"]) < 0.6
    merged = merge.execute(MergeConfig(), MergeInputs(base=taught[0], students=(adapter,)), store).artifact
    assert merged.facts["num_parameters"] == taught[0].facts["num_parameters"]
    with pytest.raises(ValueError, match="adapter lora learns one fixed scale; the data has 1.0 to 3.0"):
        guide.forecast(config, {"model": (taught[0].facts,), "data": (drawn.facts,)})


@pytest.fixture(scope="module")
def onnx(
    shared_store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact, cross: AdapterArtifact
) -> OnnxArtifact:
    inputs = ExportInputs(model=taught[0], data=guide_questions, guidance=cross)
    return export.execute(ExportConfig(num_prompts=2, num_new_tokens=12), inputs, shared_store).artifact


def test_the_exported_graph_takes_the_scale_as_an_input(
    taught: list[ModelArtifact], cross: AdapterArtifact, onnx: OnnxArtifact
) -> None:
    proved = json.loads((onnx.path / "parity.json").read_text())
    assert [number["scale"] for number in proved] == [1, 2, 3]
    session = open_session(onnx.path, is_guided=True)
    assert SCALE_NAME in [entry.name for entry in session.get_inputs()]
    prompt = chat_prompt(load_tokenizer(taught[0].path), question(1, 7))
    texts = {scale: GuidedGraph(session).greedy(prompt, scale, 12)[0] for scale in (1.0, 3.0)}
    model = load_model(taught[0].path, torch.float32)
    assert texts[1.0] == decode(TorchRunner(model), [prompt], max_new_tokens=12, stop_ids=())[0].token_ids
    adapters = load_guidance(cross.path, model)
    adapters.attach(model)
    with adapters.at(3.0):
        assert texts[3.0] == decode(TorchRunner(model), [prompt], max_new_tokens=12, stop_ids=())[0].token_ids
    with pytest.raises(ValueError, match="wants guidance_scale as an input"):
        open_session(onnx.path)


def test_a_pruned_base_learns_guidance_and_recovery_together(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    """Without the factor w - 1 the adapters also act at scale 1, where the pruned base needs healing."""
    pruned = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=taught[0]), store).artifact
    training = GUIDE.training.with_changes(schedule={"num_epochs": 4})
    config = GuideConfig(rank=32, num_tokens=16, num_heads=2, is_base_at_one=False, training=training)  # type: ignore[arg-type]
    inputs = GuideInputs(model=pruned, data=(drawn,), teacher=taught[0])
    adapter = guide.execute(config, inputs, store).artifact
    assert float(adapter.facts["kl_ratio_seen"]) < 0.6
    model, original = load_model(pruned.path, torch.float32), load_model(taught[0].path, torch.float32)
    adapters = load_guidance(adapter.path, model)
    rows = [row for row in read_rows(drawn.path / "rows.jsonl") if row.split == "heldout"][:8]
    at_one = [GuidedText(row.prompt_ids, row.unguided_ids, row.answer_ids, 1.0) for row in rows]
    adapters.attach(model)
    gap = measure_gap(at_one, student=model, guided_at=adapters.set_scale, teacher=original, unguided=original)
    assert gap.ratio < 0.7, "nearer to the original than the pruned base, unguided"


def test_a_graph_that_says_no_number_is_not_proved(
    taught: list[ModelArtifact],
    guide_questions: DatasetArtifact,
    cross: AdapterArtifact,
    onnx: OnnxArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof alone, on a graph that is there: tracing it again takes ten seconds."""
    greedy = GuidedGraph.greedy

    def broken(graph: GuidedGraph, prompt: list[int], scale: float, num_tokens: int) -> tuple[list[int], torch.Tensor]:
        ids, logits = greedy(graph, prompt, scale, num_tokens)
        logits[0, 0] = float("nan")
        return ids, logits

    monkeypatch.setattr(GuidedGraph, "greedy", broken)
    inputs = ExportInputs(model=taught[0], data=guide_questions, guidance=cross)
    model, graph = load_model(taught[0].path, torch.float32), GuidedGraph(open_session(onnx.path, is_guided=True))
    with pytest.raises(ValueError, match="the exported graph is not the model: .* max logit difference nan"):
        prove_scale(ExportConfig(num_prompts=1, num_new_tokens=2), inputs, model, graph, 1.0)
