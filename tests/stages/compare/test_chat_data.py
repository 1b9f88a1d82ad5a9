"""Conversations as data: every stage takes them, learns the assistant's turns alone, and asks as the template asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.compare.config import CompareConfig, CompareInputs
from attar.stages.compare.stage import compare
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import tiny_config
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.chat_tokenizers import chat_tokenizer

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def conversation(number: int) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": f"You are calculator {number}."},
        {"role": "user", "content": f"What is {number} and 1?"},
        {"role": "assistant", "content": f"It is {number + 1}."},
        {"role": "user", "content": "And one more?"},
        {"role": "assistant", "content": f"Then {number + 2}."},
    ]
    return {"messages": turns}


WITH_TOOLS = {
    "messages": [
        {"role": "user", "content": "Add 1"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "That makes 2."},
    ],
    "tools": TOOLS,
}


@pytest.fixture
def chat_model(tmp_path: Path, store: Store) -> ModelArtifact:
    """A random Llama whose template writes tools, calls and results."""
    import transformers

    tokenizer = chat_tokenizer("hermes")
    config = tiny_config("llama", num_blocks=2, hidden_size=32, tokenizer=tokenizer)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return ingest_model.execute(IngestModelConfig(source=f"folder:{tmp_path / 'model'}"), NoInputs(), store).artifact


def ingested(store: Store, folder: Path, records: list[dict[str, Any]], **options: Any) -> DatasetArtifact:
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, records)))
    config = IngestDataConfig(source=f"jsonl:{folder / 'chat.jsonl'}", **options)
    return ingest_data.execute(config, NoInputs(), store).artifact


def rows_of(data: DatasetArtifact) -> list[Row]:
    return read_rows(data.path / "rows.jsonl")


def test_the_turns_of_a_conversation_stay_on_one_side_of_the_split(store: Store, tmp_path: Path) -> None:
    rows = rows_of(ingested(store, tmp_path, [conversation(number) for number in range(10)], heldout_fraction=0.3))
    assert len(rows) == 20 and [row.id for row in rows[:3]] == ["000000.000", "000000.001", "000001.000"]
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row.id.partition(".")[0], set()).add(row.split)
    assert all(len(side) == 1 for side in sides.values()) and 5 <= sum(row.split == "heldout" for row in rows) <= 7
    last = rows_of(ingested(store, tmp_path, [conversation(0)], assistant_turns="last", heldout_fraction=0.0))
    assert [(row.id, row.answer) for row in last] == [("000000", "Then 2.")]


def test_a_table_and_share_gpt_give_the_same_rows(store: Store, tmp_path: Path) -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [{"from": names[turn["role"]], "value": turn["content"]} for turn in conversation(3)["messages"]]
    pyarrow.parquet.write_table(pyarrow.table({"messages": [conversation(3)["messages"]]}), tmp_path / "chat.parquet")
    config = IngestDataConfig(source=f"parquet:{tmp_path / 'chat.parquet'}", heldout_fraction=0.0)
    table = rows_of(ingest_data.execute(config, NoInputs(), store).artifact)
    share_gpt = rows_of(ingested(store, tmp_path, [{"conversations": shared}], heldout_fraction=0.0))
    assert table == share_gpt == rows_of(ingested(store, tmp_path, [conversation(3)], heldout_fraction=0.0))


def test_a_chat_of_one_question_is_a_question(store: Store, tmp_path: Path) -> None:
    single = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    chat = rows_of(ingested(store, tmp_path, [single], heldout_fraction=0.0))
    assert chat == rows_of(ingested(store, tmp_path, [{"question": "q", "answer": "a"}], heldout_fraction=0.0))


def test_a_bad_turn_is_refused_by_file_and_row(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chat\.jsonl line 2: row 1 messages has no turn of the assistant"):
        ingested(store, tmp_path, [conversation(0), {"messages": [{"role": "user", "content": "q"}]}])


def test_training_learns_the_assistants_turns_alone(chat_model: ModelArtifact, store: Store, tmp_path: Path) -> None:
    data = ingested(store, tmp_path, [conversation(5), WITH_TOOLS], heldout_fraction=0.0)
    tokenizer = load_tokenizer(chat_model.path)
    rows = TrainingRows.read((data,), tokenizer, learn="answers", max_tokens=1024, reads_record=False)
    learned = [tokenizer.decode(example.answer_ids) for example in rows.train]
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert learned == ["It is 6.<|im_end|>", "Then 7.<|im_end|>", f"{call}<|im_end|>", "That makes 2.<|im_end|>"]
    for record_, last in ((conversation(5), rows.train[1]), (WITH_TOOLS, rows.train[3])):
        given = [dict(turn, content=turn["content"] or "") for turn in record_["messages"]]
        for turn in given:
            if "tool_calls" in turn:
                turn["tool_calls"] = [{"function": {"name": "add", "arguments": {"a": 1}}}]
        whole = tokenizer.apply_chat_template(given, tools=record_.get("tools"), tokenize=False)
        assert tokenizer.decode([*last.prompt_ids, *last.answer_ids]) + "\n" == whole, "to the byte"


@pytest.mark.parametrize("turns", ["every", "last"])
def test_self_data_rewrites_the_last_or_every_turn(
    turns: Any, chat_model: ModelArtifact, store: Store, tmp_path: Path
) -> None:
    data = ingested(store, tmp_path, [conversation(5), WITH_TOOLS], heldout_fraction=0.0)
    config = SelfDataConfig(
        drawing={"max_new_tokens": 4}, recorded={"num_candidates": 4}, precision="float32", prompt={"turns": turns}
    )
    made = rows_of(self_data.execute(config, SelfDataInputs(model=chat_model, data=data), store).artifact)
    not_rewritten = {row.id: row.reason for row in made if row.reason.startswith("not rewritten")}
    earlier = {"000000.000": "not rewritten (an earlier turn)"} if turns == "last" else {}
    assert not_rewritten == earlier | {"000001.000": "not rewritten (calls a tool)"}
    assert [row.messages for row in made] == [row.messages for row in rows_of(data)] and all(
        row.recorded_in for row in made
    )
    rewritten = [row for row in made if row.id not in not_rewritten]
    assert any(row.rewrite for row in rewritten), (
        "they were written anew, kept or not; a random model may also end at once"
    )


def test_every_stage_takes_conversations(chat_model: ModelArtifact, store: Store, tmp_path: Path) -> None:
    data = ingested(store, tmp_path, [conversation(5), WITH_TOOLS], heldout_fraction=0.0)
    tokenizer, rows = load_tokenizer(chat_model.path), rows_of(data)
    exact = [(row_prompt(tokenizer, row), row_answer(tokenizer, row)) for row in rows]
    made = record.execute(RecordConfig(num_recorded=2), RecordInputs(model=chat_model, data=data), store).artifact
    assert [(row.prompt_ids, row.answer_ids) for row in rows_of(made)] == exact
    samples = calibration_samples(chat_model.path, data, 4, 512)
    assert sorted(len(sample.ids) for sample in samples) == sorted(
        len(prompt) + len(answer) - (not row.reply) for row, (prompt, answer) in zip(rows, exact, strict=True)
    )
    scores = EvaluateConfig(max_new_tokens=2, num_samples=1, timing={"num_prompt_tokens": 8}, precision="float32")
    evaluated = evaluate.execute(scores, EvaluateInputs(model=chat_model, tasks=(data,)), store).artifact
    assert json.loads((evaluated.path / "evaluation.json").read_text())["num_rows"] == {"chat": 4}
    compared = compare.execute(
        CompareConfig(num_own_answers=1, max_new_tokens=2, precision="float32"),
        CompareInputs(model=(chat_model,), original=chat_model, tasks=(data,)),
        store,
    ).artifact
    assert compared.facts["kl_nats_chat"] == pytest.approx(0.0, abs=1e-6)
    config = FinetuneConfig(compute={"precision": "float32"}, schedule={"max_steps": 1})
    assert finetune.execute(config, FinetuneInputs(model=chat_model, data=(data,)), store).artifact.path.exists()
