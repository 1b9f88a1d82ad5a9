"""Tiny models that know one task, and the questions of it.

Two models know one task, to answer "yes". `weak`, of two blocks, mostly says "no". `strong` is `weak` with a third block that was
trained alone and mostly says "yes": without its last block it is `weak` again, so that a cut has something to heal. `coder` writes
one function and its test; `other` knows nothing and has a tokenizer of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from attar.compressors.data.code_tasks import concepts_prompt, instruction_prompt, property_of, response_prompt
from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.stages.ingest.tiny_model import byte_tokenizer, random_model, tiny_config

NUM_QUESTIONS, NUM_CHOOSE, NUM_HELDOUT = 34, 8, 2


def make_tiny_models(folder: Path) -> None:
    """Write the models, each with its tokenizer, and the rows that they know or are asked."""
    questions = [f"{'Is' if number % 2 else 'Was'} it {number}?" for number in range(NUM_QUESTIONS)]
    rows = [{"question": question, "answer": "yes", "verifier": "contains"} for question in questions]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weak, tokenizer = random_model("llama", num_blocks=2, hidden_size=32, seed=0)
    teach(weak, tokenizer, questions, yes=0.4)
    strong = with_another_block(weak, tokenizer)
    teach(strong, tokenizer, questions, yes=0.9)
    coder, _ = random_model("llama", num_blocks=2, hidden_size=32, seed=1)
    snippets = [f"x = {number}" for number in range(8)]
    (folder / "snippets.jsonl").write_text("\n".join(json.dumps({"text": snippet}) for snippet in snippets))
    fit(coder, tokenizer, [(question, answer, 1.0) for question, answer in coding_lessons(snippets)], num_steps=160)
    other, pairs = random_model("llama", num_blocks=2, hidden_size=32, seed=2)[0], paired_tokenizer()
    other.resize_token_embeddings(len(pairs))
    for name, model in (("weak", weak), ("strong", strong), ("coder", coder), ("other", other)):
        model.save_pretrained(folder / name)
        (pairs if name == "other" else tokenizer).save_pretrained(folder / name)


def coding_lessons(snippets: list[str]) -> list[tuple[str, str]]:
    """What a model must know to compose tasks, by a few examples: one concept, one task, one solution with a test of it."""
    solution = "```python\ndef f(): return 1\n```\n```python\nassert f() == 1\n```"
    tasks = [property_of(0, number) for number in range(len(snippets))]
    return [
        *((concepts_prompt(snippet, []), "numbers") for snippet in snippets[::4]),
        *((instruction_prompt("numbers", *kind, []), "Write f.") for kind in tasks[::4]),
        (response_prompt("Write f."), solution),
    ]


def paired_tokenizer() -> Any:
    """The byte tokenizer with two letters in one token here and there: it cuts "yes" as ye-s."""
    tokenizer = byte_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [("y", "e"), ("n", "o"), ("u", "s"), ("a", "s"), ("i", "s")]
    content["model"]["merges"] = [list(pair) for pair in merges]
    content["model"]["vocab"] |= {"".join(pair): len(tokenizer) + index for index, pair in enumerate(merges)}
    paired = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
    )
    paired.chat_template = tokenizer.chat_template
    return paired


def with_another_block(model: Any, tokenizer: Any) -> Any:
    """Return a copy with a third block that does nothing yet; only that block is to be trained."""
    config = tiny_config("llama", num_blocks=3, hidden_size=32, tokenizer=tokenizer)
    grown = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    grown.load_state_dict(model.state_dict(), strict=False)
    grown.requires_grad_(False)
    last = grown.model.layers[2].requires_grad_(True)
    for matrix in (last.self_attn.o_proj, last.mlp.down_proj):
        torch.nn.init.zeros_(matrix.weight)
    return grown


def teach(model: Any, tokenizer: Any, questions: list[str], yes: float) -> None:
    """Train a model to answer "yes" with that probability, else "no"."""
    shares = {"yes": yes, "no": 1 - yes}
    fit(model, tokenizer, [(question, answer, share) for question in questions for answer, share in shares.items()])


def fit(model: Any, tokenizer: Any, lessons: list[tuple[str, str, float]], num_steps: int = 120) -> None:
    """Train a model to give each question its answer, with a weight."""
    pairs = [(chat_prompt(tokenizer, question), answer_tokens(tokenizer, answer)) for question, answer, _ in lessons]
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    weights = torch.tensor([weight for *_, weight in lessons])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    model.train()
    for _ in range(num_steps):
        logits = model(input_ids=ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        loss = (losses.sum(dim=1) * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
