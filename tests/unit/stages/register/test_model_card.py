"""The card says what the lineage says; the figures are numbers that sort."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from attar.registry.artifacts.lineage import Ancestor
from attar.registry.release.gate import Ratio
from attar.stages.register.model_card import write_card
from attar.stages.register.release import Release
from attar.stages.register.release_numbers import figure_rows, number_tags, page_figures, plain


def made(stage: str, kind: str, *inputs: Ancestor, via: str = "", config: dict | None = None, **facts) -> Ancestor:
    key = f"{stage}-{facts.get('name', '')}"
    return Ancestor(via, stage, key, key, kind, config or {}, facts, True, inputs)


def data(name: str, via: str) -> Ancestor:
    return made("ingest_data", "dataset", via=via, name=name, source=f"jsonl:{name}", num_rows=9, num_heldout=2)


BASE = made(
    "ingest_model",
    "model",
    via="model",
    config={"source": "hub:a/b@c"},
    num_blocks=4,
    num_parameters=1000,
    license="mit",
)
CURATED = made("curate", "dataset", data("lessons", "data"), data("exam", "tasks"), via="data", num_rows=7)
MODEL = made(
    "finetune", "model", made("prune", "model", BASE, via="model", removed_blocks=(1, 2)), CURATED,
    config={"adapt": {"kind": "full"}}, num_blocks=2, num_parameters=600,
)  # fmt: skip
EVALUATION = made("evaluate", "evaluation", replace(MODEL, via="model"), data("exam", "tasks"), data("trivia", "tasks"))


def card(**changes) -> str:
    figures = {"original": {"perplexity": 20.0}, "model": {"perplexity": 30.5, "accuracy_exam": 0.5}}
    forms = {"model": {"dtype": "float32"}, "onnx-int4": {"format": "onnx", "quantization": "int4"}}
    given = {
        "name": "small",
        "model": MODEL,
        "evaluation": EVALUATION,
        "forms": forms,
        "figures": figures,
        "checks": [],
    }
    return write_card(Release.of(**given | changes))


@pytest.mark.parametrize(
    "line",
    [
        "license: mit",
        "A causal language model of 2 decoder blocks, 600 parameters; the original has 4 blocks, 1,000 parameters. Made with Attar.",
        "- prune: blocks 1,2 of the model before it removed",
        "- finetune: method full",
        "- lessons (`jsonl:lessons`): 9 rows, 2 of them held out; made with",
        "- exam (`jsonl:exam`): 9 rows, 2 of them held out; kept apart from what it was made with and measured on",
        "- trivia (`jsonl:trivia`): 9 rows, 2 of them held out; measured on",
        "| perplexity | 20 | 30.5 |",
        "- `onnx-int4/`: ONNX graph with a KV cache: onnxruntime, tokenizers; weights int4",
        "- `onnx-int4/`: int4; its loss stands in the figures above",
        "Base: `hub:a/b@c`. Its licence: mit. This version is a derived work of it.",
    ],
)
def test_the_card_says_what_the_lineage_says(line: str) -> None:
    assert line in card().splitlines()


def test_a_sub_network_is_named_by_its_sizes() -> None:
    sizes = "3 blocks, width 192, 6 heads, 768 channels"
    step = made("prune", "encoder", BASE, via="model", config={"choice": "window"}, subnet=sizes, num_blocks=3)
    lines = card(model=step, evaluation=made("evaluate", "evaluation", replace(step, via="model"))).splitlines()
    assert f"- prune: the sub-network of {sizes} of the model before it" in lines


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    text = card(model=made("ingest_model", "model", config={"source": "folder:x"}))
    assert "license: unknown" in text and "its source does not say; ask whoever made it" in text
    assert "- nothing: these are the weights of the original" in text


def test_what_diffusers_leaves_out_of_a_denoiser_is_said() -> None:
    net = {"sample_size": 8, "num_labels": 4, "prediction": "epsilon", "num_parameters": 9}
    line = "- diffusers reads the folder without its self-conditioning, with a warning: another net."
    assert line in card(model=made("merge", "denoiser", **net, self_conditioning=True))
    assert line not in card(model=made("merge", "denoiser", **net))


def test_tags_are_plain_numbers_with_ratios_to_the_original() -> None:
    tags = number_tags(
        {"model": {"num_parameters": 113274432.0, "perplexity": 41.25, "draft_gain": 0.75}},
        {"num_parameters": 134515008.0, "perplexity": 27.5},
        {"angular_distance": 0.0000123456},
    )
    assert tags == {
        "scan.angular_distance": "0.0000123456",
        "model.num_parameters": "113274432",
        "model.perplexity": "41.25",
        "model.draft_gain": "0.75",
        "model.num_parameters_ratio": "0.842095",
        "model.perplexity_ratio": "1.5",
    }
    assert math.isnan(float(plain(float("nan")))) and float(plain(1e-9)) == 1e-9


def test_a_figure_stands_with_its_interval_and_what_it_was_measured_on() -> None:
    measured = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "num_questions": 12.0}
    check = {
        "of": "model", "name": "accuracy_ratio", "measured": 0.8125, "known": "[0.6, 1.02]", "measured_on": "12 questions",
        "is_lower_better": False, "limit": 0.6, "laxness": "40% of the accuracy may be lost", "verdict": "passed", "undecided": "",
    }  # fmt: skip
    lines = card(figures={"model": measured}, checks=[check]).splitlines()
    assert "| accuracy | 0.5 [0.25, 0.75] |" in lines and "| num_questions | 12 |" in lines
    row = "| model | accuracy_ratio | 0.8125 [0.6, 1.02] | 12 questions | at least 0.6 | 40% of the accuracy may be lost | passed |"
    assert row in lines


def test_a_page_holds_a_dozen_figures_and_the_table_every_one() -> None:
    figures = {
        form: {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "num_questions": 12, "disk_bytes": 8e6}
        for form in ("model", "onnx", "onnx-int8", "onnx-int4", "gguf-q8_0", "gguf-q4_0", "gguf-f16")
    }
    numbers = number_tags(figures, {"accuracy": 0.625, "disk_bytes": 16e6}, {"angular_distance": 0.25})
    page = page_figures(numbers, figures)
    assert len(page) == 12 and list(page)[:4] == [
        "model.accuracy", "model.accuracy_ratio", "model.disk_bytes", "onnx.accuracy_ratio",
    ]  # fmt: skip
    rows = {row["figure"]: row for row in figure_rows(numbers)}
    assert rows["scan.angular_distance"]["value"] == 0.25
    assert rows["gguf-f16.accuracy"] == {
        "figure": "gguf-f16.accuracy", "value": 0.5, "low": 0.25, "high": 0.75,
        "ratio": 0.8, "ratio_low": None, "ratio_high": None,
    }  # fmt: skip
    flat = {
        f"{name}{end}": value
        for name, row in rows.items()
        for end, value in (
            ("", row["value"]), ("_low", row["low"]), ("_high", row["high"]), ("_ratio", row["ratio"]),
        )
        if value is not None
    }  # fmt: skip
    assert flat == {name: float(value) for name, value in numbers.items()}, "nothing is lost"


def test_tags_tell_the_ends_of_a_ratio_and_none_of_a_time_that_tells_nothing() -> None:
    figures, baseline = {"model": {"accuracy": 0.5, "decode_seconds": 2.0}}, {"accuracy": 0.5, "decode_seconds": 8.0}
    ratios = {"accuracy": Ratio(1.0, 0.75, 1.25), "decode_seconds": Ratio(0.25, 0.2, 0.3, undecided="of one shape")}
    assert number_tags(figures, baseline, {}, {"model": ratios}) == {
        "model.accuracy": "0.5",
        "model.decode_seconds": "2",
        "model.accuracy_ratio": "1",
        "model.accuracy_ratio_low": "0.75",
        "model.accuracy_ratio_high": "1.25",
    }
