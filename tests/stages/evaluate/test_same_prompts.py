"""Training, record, scan, compare, self_data and evaluate ask a row by the same tokens, for every family and kind of template."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import attar.stages.artifacts.dataset.right_answers
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.samples import calibration_samples, exact_tokens
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_folder import copy_companions
from attar.stages.artifacts.writers import stop_ids_of
from attar.stages.compare.config import CompareConfig
from attar.stages.compare.pairs import gold, windows
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES, random_model, tiny_config
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.quantize.limits import heldout_pairs
from tests.chat_tokenizers import KINDS, chat_tokenizer

QUESTIONS = [Row("0", question="Why?\n", answer="So."), Row("1", question=" What is 2 < 3 {{x}}? ", answer="Yes.")]
CHOICES = [
    Row("2", question="Pick one", choices=["red", "a blue one"], answer="red", answer_index=0, verifier="choice")
]
TEXT = Row("3", text="The boat came in at dawn, and nobody saw it. " * 3)


def dataset(folder: Path, rows: list[Row]) -> DatasetArtifact:
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", rows)
    return DatasetArtifact(folder, {"name": folder.name, "num_rows": len(rows)}, folder.name, folder.name)


def folder_of(family: str, kind: str, path: Path) -> Path:
    """A random model of the family in a folder, with the kind's tokenizer."""
    import transformers

    tokenizer = chat_tokenizer(kind)
    config = tiny_config(family, num_blocks=1, hidden_size=32, tokenizer=tokenizer)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def prompts_of_evaluate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[int]], list[tuple[list[int], list[int]]]]:
    """Return the prompts that evaluate has the model continue, and the (context, choice) pairs it scores: watched, not replaced."""
    prompts: list[list[int]] = []
    pairs: list[tuple[list[int], list[int]]] = []
    score = attar.stages.artifacts.dataset.right_answers.choice_likelihoods

    def watched(runner: Any, given: Any, **options: Any) -> Any:
        prompts.extend(list(prompt) for prompt in given)
        return decode(runner, given, **options)

    def scored(runner: Any, given: Any, **options: Any) -> Any:
        pairs.extend((list(context), list(choice)) for context, choices in given for choice in choices)
        return score(runner, given, **options)

    monkeypatch.setattr(attar.stages.artifacts.dataset.right_answers, "decode", watched)
    monkeypatch.setattr(attar.stages.artifacts.dataset.right_answers, "choice_likelihoods", scored)
    tokenizer, runner = load_tokenizer(folder), TorchRunner(load_model(folder, "float32"))
    attar.stages.artifacts.dataset.right_answers.written_answers(
        runner, QUESTIONS, tokenizer, max_new_tokens=1, stop_ids=stop_ids_of(tokenizer, folder), batch_size=2
    )
    attar.stages.artifacts.dataset.right_answers.right_choices(runner, CHOICES, tokenizer, batch_size=2, name="pick")
    return prompts, pairs


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, "chatml") for family in FAMILIES),
        *(("llama", kind) for kind in KINDS if kind != "chatml"),
        ("gemma3", "gemma"),
        ("phi3", "phi3"),
    ],
)
def test_a_row_is_asked_by_the_same_tokens_everywhere(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "chatml":
        model, tokenizer = random_model(family, num_blocks=1, hidden_size=32)
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        folder = folder_of(family, kind, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    row_prompts = [row_prompt(tokenizer, row) for row in QUESTIONS]
    solved = [(prompt, row_answer(tokenizer, row)) for prompt, row in zip(row_prompts, QUESTIONS, strict=True)]
    prompts, pairs = prompts_of_evaluate(folder, monkeypatch)
    assert prompts == row_prompts, "evaluate"
    data = dataset(tmp_path / "questions", QUESTIONS)
    rows = TrainingRows.read((data,), tokenizer, learn="answers", max_tokens=1024, reads_record=False)
    assert [(example.prompt_ids, example.answer_ids) for example in rows.train] == solved, "training"
    assert [exact_tokens(tokenizer, row) for row in QUESTIONS] == solved, "record"
    assert [gold(CompareConfig(), row, tokenizer) for row in QUESTIONS] == solved, "compare"
    assert heldout_pairs(folder, data, None, 0, 99) == solved, "quantize"
    samples = calibration_samples(folder, data, 2, 512)
    assert sorted(sample.ids for sample in samples) == sorted([*prompt, *answer[:-1]] for prompt, answer in solved), (
        "scan and patch"
    )
    [whole] = CHOICES
    context = tokenizer.decode(pairs[0][0]).removeprefix(tokenizer.bos_token)
    assert context == f"Question: {whole.question}\nAnswer:" and len({tuple(pair[0]) for pair in pairs}) == 1
    puts_bos = KINDS[kind][4]
    assert pairs[0][0].count(tokenizer.bos_token_id) == int(puts_bos), "multiple choice"
    assert not any(tokenizer.bos_token_id in choice for _, choice in pairs)


@pytest.mark.parametrize("kind", ["gemma", "chatml"])
def test_text_begins_with_bos_in_every_window_of_every_stage(kind: str, store: Store, tmp_path: Path) -> None:
    folder = folder_of("llama", kind, tmp_path / "model")
    (tmp_path / "story.txt").write_text(TEXT.text)
    source = IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}", heldout_fraction=0.0)
    tokenizer, data = load_tokenizer(folder), ingest_data.execute(source, NoInputs(), store).artifact
    compared = windows(CompareConfig(max_tokens=32), data, tokenizer)
    rows = TrainingRows.read((data,), tokenizer, learn="answers", max_tokens=32, reads_record=False)
    assert [(example.prompt_ids, example.answer_ids) for example in rows.train] == compared
    pieces = [sample.ids for sample in calibration_samples(folder, data, 99, 32)]
    assert sorted(pieces) == sorted([*context, *part] for context, part in compared)
    if kind == "gemma":
        assert {tuple(context) for context, _ in compared} == {(tokenizer.bos_token_id,)}
        again = [sample.ids for sample in calibration_samples(folder, data, 99, 32, prepend_bos=True)]
        assert again == pieces, "asked for as well, it stands there once"
    model = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    made = record.execute(
        RecordConfig(max_tokens=32, num_recorded=2), RecordInputs(model=model, data=data), store
    ).artifact
    recorded = read_rows(made.path / "rows.jsonl")
    assert [(row.prompt_ids, row.answer_ids) for row in recorded] == compared
    assert "".join(row.text for row in recorded) == TEXT.text, "the words alone"


@pytest.mark.parametrize("kind", ["gemma", "chatml"])
def test_perplexity_reads_every_window_behind_its_bos(kind: str, store: Store, tmp_path: Path) -> None:
    folder = folder_of("llama", kind, tmp_path / "model")
    (tmp_path / "story.txt").write_text(TEXT.text)
    source = IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}")
    text = ingest_data.execute(source, NoInputs(), store).artifact
    model = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    config = EvaluateConfig(num_samples=0, timing={"num_prompt_tokens": 8}, perplexity_window=32, precision="float32")
    made = evaluate.execute(config, EvaluateInputs(model=model, text=text), store).artifact
    tokenizer, loaded = load_tokenizer(folder), load_model(folder, "float32")
    ids = tokenizer(TEXT.text, add_special_tokens=False).input_ids
    first = [tokenizer.bos_token_id] if kind == "gemma" else []
    losses: list[float] = []
    for start in range(0, len(ids), 32 - len(first)):
        window = torch.tensor([[*first, *ids[start : start + 32 - len(first)]]])
        with torch.inference_mode():
            logprobs = loaded(input_ids=window).logits[0, :-1].log_softmax(-1)
        losses += (-logprobs.gather(-1, window[0, 1:, None])).flatten().tolist()
    # the sums are taken in batches of other widths
    assert made.facts["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


@pytest.mark.parametrize(("kind", "ends"), [("phi3", ["<|endoftext|>", "<|end|>"]), ("chatml", ["<|im_end|>"])])
def test_an_exported_folder_says_where_the_template_ends_a_turn(kind: str, ends: list[str], tmp_path: Path) -> None:
    folder = folder_of("llama", kind, tmp_path / "model")
    copy_companions(folder, tmp_path)
    stop_ids = json.loads((tmp_path / "genai_config.json").read_text())["model"]["eos_token_id"]
    ids = load_tokenizer(folder).convert_tokens_to_ids(ends)
    assert stop_ids == (ids if len(ids) > 1 else ids[0])
    assert set(stop_ids_of(load_tokenizer(folder), folder)) == {*ids}


def test_the_end_of_a_model_without_eos_is_the_generation_configs(tmp_path: Path) -> None:
    folder = folder_of("llama", "no template, bos and eos", tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    for path in ("tokenizer_config.json", "config.json"):
        config = json.loads((folder / path).read_text())
        config.pop("eos_token", None)
        config.pop("eos_token_id", None)
        (folder / path).write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 4]}))
    assert row_answer(load_tokenizer(folder), QUESTIONS[0])[-1] == 9
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match="nothing ends an answer"):
        row_answer(load_tokenizer(folder), QUESTIONS[0])
