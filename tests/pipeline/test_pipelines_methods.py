"""Every preset through the command line on tiny models: its own objective, or its reward, gets better on held-out rows.

Two models know one task, to answer "yes". `weak`, of two blocks, mostly says "no". `strong` is `weak` with a third block that was
trained alone and mostly says "yes": without its last block it is `weak` again, so that a cut has something to heal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from compressors.self_data.prompts import answer_tokens, chat_prompt
from pipelines.cli import app
from pipelines.recipe import load_recipe, shipped_recipes
from registry.store import Store
from stages.tiny_model import random_model, tiny_config

METHODS = [name.removeprefix("methods/") for name in shipped_recipes() if name.startswith("methods/")]
NUM_QUESTIONS, NUM_HELDOUT = 32, 8
# enough to move a model of 32 hidden units within a dozen steps
QUICK = {
    "rank": 8,
    "alpha": 16,
    "learning_rate": 0.01,
    "warmup_fraction": 0.1,
    "tokens_per_step": 256,
    "tokens_per_micro_batch": 4096,
    "eval_every": 4,
    "num_epochs": 4,
    "precision": "float32",
}


@dataclass(frozen=True)
class Smoke:
    """How a preset is made small, and what must get better on held-out rows.

    `losses`: the weighted sum of these metrics of `node` must fall to `share` of what it was; none: `heldout_quality`, the share of
    questions answered right, must rise by a half.
    """

    losses: dict[str, float] = field(default_factory=dict)
    source: str = "strong"
    changes: dict[str, Any] = field(default_factory=dict)
    node: str = "student"
    share: float = 0.7


def quick(node: str = "student", **more: Any) -> dict[str, Any]:
    return {f"{node}.config.{name}": value for name, value in {**QUICK, **more}.items()}


def on_policy(form: str, num_samples: int = 1, **more: Any) -> dict[str, Any]:
    rollout = f"student.config.rollout.{form}"
    return {**quick(**more), f"{rollout}.max_new_tokens": 6, f"{rollout}.num_samples": num_samples}


def rewarded(form: str = "student", num_samples: int = 8) -> dict[str, Any]:
    return on_policy(form, num_samples, learning_rate=0.004, num_epochs=3)


CUT = {"pruned.config.blocks": [2]}
SMOKES = {
    "ps-kd": Smoke({"ps_kd": 1.0}, changes={**CUT, **quick()}),
    "recursive-meta-distillation": Smoke({"meta": 1.0}, changes={**CUT, **quick(num_epochs=6)}),
    "curiosft": Smoke({"next_token": 1.0, "curiosity": 1.0}, changes={**CUT, **quick()}),
    "opsd": Smoke({"opsd": 1.0}, source="weak", changes=on_policy("student")),
    "srpo": Smoke(source="weak", changes=rewarded()),
    "adpo": Smoke(source="weak", changes=rewarded()),
    "pi-distill": Smoke(source="weak", changes=rewarded("teacher", 4)),
    "rlad": Smoke(changes={**CUT, **rewarded()}),
    "tsd-kd": Smoke({"opener": 0.1, "direct": 1.0, "sharpen": 1.0}, changes={**CUT, **on_policy("student")}),
    "paced": Smoke({"paced": 1.0}, changes={**CUT, **on_policy("student", 8, num_epochs=2)}),
    "gkd": Smoke({"gkd": 1.0}, changes={**CUT, **on_policy("mixed")}),
    "minillm": Smoke({"reverse": 1.0}, changes={**CUT, **on_policy("student")}),
    "distillm": Smoke({"skew": 1.0}, changes={**CUT, **on_policy("mixed")}),
}


def test_every_preset_has_a_run_here() -> None:
    assert set(SMOKES) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_preset_gets_better_at_what_it_is_for(name: str, attar: Callable[..., dict[str, Any]], tiny: Path) -> None:
    smoke = SMOKES[name]
    changes = {
        "original.config.source": f"folder:{tiny / smoke.source}",
        "questions.config.source": f"jsonl:{tiny / 'questions.jsonl'}",
        "questions.config.heldout_fraction": NUM_HELDOUT / NUM_QUESTIONS,
        "questions.config.verifier": "contains",
        **smoke.changes,
    }
    run = attar("run", f"methods/{name}", changes)
    if not smoke.losses:
        curve = curve_of(run, smoke.node, "heldout_quality")
        assert max(curve[1:]) >= curve[0] + 0.5, curve
        return
    curves = {one: curve_of(run, smoke.node, f"heldout_{one}_nats") for one in smoke.losses}
    totals = [sum(smoke.losses[one] * curves[one][look] for one in curves) for look in range(min(map(len, curves.values())))]
    assert min(totals[1:]) <= smoke.share * totals[0], curves


def curve_of(run: dict[str, Any], node: str, metric: str) -> list[float]:
    """Return a metric of a node in the order of its steps, as the store keeps it beside the artifact."""
    path = Path(os.environ["ATTAR_HOME"]) / "store" / run["nodes"][node]["stage"] / run["nodes"][node]["key"]
    lines = map(json.loads, (path / "content" / "records" / "metrics.jsonl").read_text().splitlines())
    found = [entry["value"] for entry in lines if entry["name"] == metric]
    assert found, f"{node} tells no {metric}"
    return found


@pytest.fixture(scope="module")
def attar(
    tmp_path_factory: pytest.TempPathFactory, serve_prefect: Callable[[Path], dict[str, str]]
) -> Callable[..., dict[str, Any]]:
    """The command line in this process, all runs in one home behind one Prefect server."""
    home = tmp_path_factory.mktemp("methods") / "home"
    home.mkdir()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.update(serve_prefect(home) | {"ATTAR_HOME": str(home)})

    def run(command: str, recipe: str, changes: dict[str, Any]) -> dict[str, Any]:
        nodes = load_recipe(recipe).nodes
        known = {path: value for path, value in changes.items() if path.partition(".")[0] in nodes}
        options = [word for path, value in known.items() for word in ("--set", f"{path}={json.dumps(value)}")]
        done = CliRunner().invoke(app, [command, recipe, "--json", *options])
        assert done.exit_code == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two models and the questions."""
    folder = tmp_path_factory.mktemp("tiny")
    questions = [f"{'Is' if number % 2 else 'Was'} it {number}?" for number in range(NUM_QUESTIONS)]
    rows = [{"question": question, "answer": "yes", "verifier": "contains"} for question in questions]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weak, tokenizer = random_model("llama", num_blocks=2, hidden_size=32, seed=0)
    teach(weak, tokenizer, questions, yes=0.4)
    strong = with_another_block(weak, tokenizer)
    teach(strong, tokenizer, questions, yes=0.9)
    for name, model in (("weak", weak), ("strong", strong)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


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


def teach(model: Any, tokenizer: Any, questions: list[str], yes: float, num_steps: int = 120) -> None:
    """Train a model to answer "yes" with that probability, else "no"."""
    pairs = [(chat_prompt(tokenizer, question), answer) for question in questions for answer in ("yes", "no")]
    texts = [[*prompt, *answer_tokens(tokenizer, answer)] for prompt, answer in pairs]
    width = max(map(len, texts))
    ids = torch.tensor([text + [tokenizer.pad_token_id] * (width - len(text)) for text in texts])
    labels = ids.clone()
    for row, (prompt, _) in enumerate(pairs):
        labels[row, : len(prompt)] = -100
        labels[row, len(texts[row]) :] = -100
    weights = torch.tensor([yes if answer == "yes" else 1 - yes for _, answer in pairs])
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
