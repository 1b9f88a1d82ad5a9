"""Every preset, planned and run node by node, on tiny models: its own objective, or its reward, gets better on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.training_run import MEASURE
from tests.system.node_by_node import run_nodes
from tests.system.recipes.encoder_smokes import ENCODER_SMOKES
from tests.system.recipes.image_smokes import IMAGE_SMOKES
from tests.system.recipes.masked_smokes import MASKED_SMOKES
from tests.system.tiny_models import NUM_CHOOSE, NUM_HELDOUT, NUM_QUESTIONS

# those of denoisers, which have no loss on held-out rows, are in test_step_methods.py
METHODS = [
    name.removeprefix("methods/")
    for name, path in shipped_recipes().items()
    if name.startswith("methods/") and path.parent.name != "steps"
]
# enough to move a model of 32 hidden units within a dozen steps; in the flat form, whose rank means nothing where all weights learn
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
    until: str = ""  # the last node that is run; none: all


def quick(node: str = "student", **more: Any) -> dict[str, Any]:
    return {f"{node}.config.{name}": value for name, value in {**QUICK, **more}.items()}


def on_policy(form: str, num_samples: int = 1, **more: Any) -> dict[str, Any]:
    rollout = "student.config.rollout"
    drawn = {f"{rollout}.kind": form, f"{rollout}.max_new_tokens": 6, f"{rollout}.num_samples": num_samples}
    return {**quick(**more), **drawn}


def rewarded(form: str = "student", num_samples: int = 8) -> dict[str, Any]:
    return on_policy(form, num_samples, learning_rate=0.004, num_epochs=3)


def short(node: str, num_samples: int, **more: Any) -> dict[str, Any]:
    """A stage that writes answers: as long as the models' own, in float32."""
    config = {"num_samples": num_samples, "max_new_tokens": 6, "precision": "float32", **more}
    return {f"{node}.config.{name}": value for name, value in config.items()}


CUT = {"pruned.config.blocks": [2]}
SMOKES = {
    "ps-kd": Smoke({"ps_kd": 1.0}, changes={**CUT, **quick()}),
    "recursive-meta-distillation": Smoke({"meta": 1.0}, changes={**CUT, **quick(num_epochs=6)}),
    "curiosft": Smoke({"next_token": 1.0, "curiosity": 1.0}, changes={**CUT, **quick()}),
    "even-your-teacher": Smoke(
        {"guided": 1.0},
        changes={**CUT, **quick("first"), **quick("echo"), **quick(), "share.config.precision": "float32"},
    ),
    "data-pruning-kd": Smoke(
        {"next_token": 0.15, "forward_kl": 0.85},
        changes={**CUT, **quick("lesson", num_epochs=2), **quick(num_epochs=12)},
    ),
    "self-data-distillation": Smoke(
        {"next_token": 1.0},
        changes={
            "block_scan.config.calibration.num_samples": 8,
            "pruned.config.num_blocks": 1,
            "rewritten.config.drawing.max_new_tokens": 6,
            **quick(),
            **quick("other_student", num_epochs=2),
        },
    ),
    "opsd": Smoke({"opsd": 1.0}, source="weak", changes=on_policy("student")),
    "srpo": Smoke(source="weak", changes=rewarded()),
    "adpo": Smoke(source="weak", changes=rewarded()),
    "pi-distill": Smoke(source="weak", changes=rewarded("teacher", 4)),
    "rlad": Smoke(changes={**CUT, **rewarded()}),
    "skill-sd": Smoke(source="weak", changes={**short("attempts", 4), "skills.config.max_new_tokens": 8, **rewarded()}),
    "sd-zero": Smoke(
        {"revised": 1.0}, source="weak", changes={**short("revisions", 8), **quick("reviser"), **on_policy("student")}
    ),
    "tsd-kd": Smoke({"opener": 0.1, "direct": 1.0, "sharpen": 1.0}, changes={**CUT, **on_policy("student")}),
    "paced": Smoke({"paced": 1.0}, changes={**CUT, **on_policy("student", 8, num_epochs=2)}),
    "gkd": Smoke({"gkd": 1.0}, changes={**CUT, **on_policy("mixed")}),
    "minillm": Smoke({"reverse": 1.0}, changes={**CUT, **on_policy("student")}),
    "distillm": Smoke({"skew": 1.0}, changes={**CUT, **on_policy("mixed")}),
    "dasd": Smoke(
        {"next_token": 1.0},
        node="first",
        until="student",  # after the second stage these few questions leave it nothing to learn, and a merge refuses that
        changes={
            **CUT,
            **short("cool_answers", 2),
            **short("warm_answers", 2),
            **quick("first"),
            **quick("second", num_epochs=2),
            **on_policy("repair", num_epochs=1),
            # "yes" and its end are four tokens: every right answer is open at three, and the teacher finishes it
            "student.config.rollout.max_new_tokens": 3,
            "student.config.rollout.student_fraction": 0.5,
        },
    ),
    "ded": Smoke(
        {"next_token": 1.0},
        changes={
            **CUT,
            **short("answers", 8),
            **short("other_answers", 8),
            **quick("trial", max_steps=3),
            **quick("other_trial", max_steps=3),
            "harder.config.max_pass_rate": 0.95,
            **quick(num_epochs=8),
        },
    ),
    "selfcodealign": Smoke(
        {"next_token": 1.0},
        source="coder",
        changes={
            "snippets.config.heldout_fraction": 0.125,
            "snippets.config.choose_fraction": 0.125,
            "tasks.config": {"num_samples": 2, "num_shots": 0, "max_new_tokens": 90, "precision": "float32"},
            "clean.config.duplicate_threshold": 0,
            **quick(num_epochs=6, tokens_per_step=512),
        },
    ),
    "self-judge": Smoke(
        {"seen": 1.0, "unseen": 0.3, "view": 2.0},
        source="weak",
        changes={**short("answers", 2), **quick(tokens_per_step=2048, tokens_per_micro_batch=8192, num_epochs=6)},
    ),
    "mend": Smoke(
        # the second stage's answers are beyond vectors before a model that knows another task: the KL alone
        {"forward_kl": 1.0},
        until="condensed_scores",
        changes={
            **{f"{node}.config.max_rows": 8 for node in ("reading", "residence", "copying")},
            **{f"{node}.config.heldout_fraction": 0.25 for node in ("reading", "residence", "copying")},
            **quick("pretrained", max_steps=2, tokens_per_step=512),
            **quick(num_epochs=6, tokens_per_step=512, learning_rate=0.003),
            "student.config.objectives": {"forward_kl": 1.0},
            **{f"{node}.config.adapt.num_blocks": 2 for node in ("pretrained", "student")},
            **{f"{node}.config.teacher.context.num_shown": 1 for node in ("pretrained", "student")},
            "condensed.config.num_shown": 1,
            "condensed_scores.config.max_rows": 2,
            "condensed_scores.config.max_new_tokens": 4,
        },
    ),
    **{name: Smoke(**smoke) for name, smoke in (IMAGE_SMOKES | ENCODER_SMOKES | MASKED_SMOKES).items()},
    "cross-tokenizer-alm": Smoke({"alm": 1.0}, changes=quick(learning_rate=0.003)),
    "anchored-decoding": Smoke(
        {"next_token": 1.0},
        source="weak",
        changes={**quick(), **short("answers", 4), "answers.config.num_debt_tokens": 0},
    ),
}


# Each takes as long as five others; `make test-slow` runs them. What they are made of is tested by itself in every run.
LONG_RECIPES = {"pi-distill", "self-judge", "skill-sd", "srpo"}


def test_every_preset_has_a_run_here() -> None:
    assert set(SMOKES) == set(METHODS) and set(METHODS) > LONG_RECIPES


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_RECIPES)) for name in METHODS]
)
def test_preset_gets_better_at_what_it_is_for(name: str, home: Path, tiny: Path) -> None:
    smoke = SMOKES[name]
    if name == "ssld":
        pytest.importorskip("imagehash", reason="in the extra `images`")
    changes = {
        "original.config.source": f"folder:{tiny / smoke.source}",
        "questions.config.source": f"jsonl:{tiny / 'questions.jsonl'}",
        "questions.config.heldout_fraction": NUM_HELDOUT / NUM_QUESTIONS,
        "questions.config.choose_fraction": NUM_CHOOSE / NUM_QUESTIONS,
        "questions.config.verifier": "contains",
        "snippets.config.source": f"jsonl:{tiny / 'snippets.jsonl'}",
        "candidate.config.source": f"folder:{tiny / 'weak'}",
        "small.config.source": f"folder:{tiny / 'other'}",
        **smoke.changes,
    }
    run = make(name, changes, smoke.until, home)
    if not smoke.losses:
        curve = curve_of(run, smoke.node, "heldout_quality")
        assert max(curve[1:]) >= curve[0] + 0.5, curve
        return
    curves = {loss: curve_of(run, smoke.node, f"heldout_{loss}_nats") for loss in smoke.losses}
    totals = [
        sum(smoke.losses[name] * curves[name][evaluation] for name in curves)
        for evaluation in range(min(map(len, curves.values())))
    ]
    # where the objective changes while it is learned, its own losses at two evaluations are of two objectives: what evaluations are compared by is one
    compared = curve_of(run, smoke.node, MEASURE, is_always_there=False) or totals
    assert min(compared[1:]) <= smoke.share * compared[0], (compared, curves)
    if name == "dasd":  # the last stage is the paper's, and no no-op
        assert max(curve_of(run, "student", "num_repaired")) >= 1
    if name == "anchored-decoding":  # what it is for: nearer to the tuned model than the original is, within the budget
        [distance], [rate] = curve_of(run, "answers", "kl_to_anchor_nats"), curve_of(run, "answers", "pass_rate")
        assert 0.02 < distance < 0.15 + 0.1, "a mean over drawn texts, give or take"
        assert rate > 0.45, "the original answers 0.4 right"
    if name == "self-judge":
        best, every = (curve_of(run, "judged", f"accuracy_of_best_{part}")[0] for part in (25, 100))
        assert best >= every


def curve_of(made: dict[str, Artifact], node: str, metric: str, *, is_always_there: bool = True) -> list[float]:
    """Return a metric of a node in the order of its steps, as the store keeps it beside the artifact."""
    lines = map(json.loads, (made[node].path / "records" / "metrics.jsonl").read_text().splitlines())
    values = [entry["value"] for entry in lines if entry["name"] == metric]
    assert values or not is_always_there, f"{node} tells no {metric}"
    return values


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for all presets: what two of them begin with is made once."""
    with pytest.MonkeyPatch.context() as changed:
        home = tmp_path_factory.mktemp("methods") / "home"
        changed.setenv("ATTAR_HOME", str(home))
        yield home


def make(name: str, changes: dict[str, Any], until: str, home: Path) -> dict[str, Artifact]:
    """Plan and run a preset's nodes in this process, with those of the changes whose nodes it has."""
    nodes = load_recipe(f"methods/{name}").nodes
    known = {path: value for path, value in changes.items() if path.partition(".")[0] in nodes}
    fields = [
        (f"{path}.{key}", item)
        for path, value in known.items()
        for key, item in (value.items() if path.endswith(".config") else [("", value)])
    ]
    recipe = load_recipe(f"methods/{name}", [f"{path.rstrip('.')}={json.dumps(value)}" for path, value in fields])
    recipe = recipe.until(until) if until else recipe
    make_plan(recipe, Store(home))
    return run_nodes(recipe, home)
