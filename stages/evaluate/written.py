"""The file of an evaluation. What one of any kind of model holds from the start, and its writing with the headline told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.kinds.kind_facts import EvaluationFacts
from attar.stages.runtime.progress import metric

RESULT = "evaluation.json"


def base_evaluation(model: Any, part: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every evaluation of a model that writes nothing holds."""
    return {
        "format": model.kind,
        "num_blocks": model.facts.num_blocks,
        "model_fingerprint": model.fingerprint,
        "part": part,
        **sizes,
        "tasks": {},
        "right": {},
        # what an evaluation of a causal model has: nothing of it is measured here
        "perplexity": None,
        "text_pieces": [],
        "samples": [],
    }


def write_evaluation(evaluation: Mapping[str, Any], headline: Mapping[str, float], content: Path) -> EvaluationArtifact:
    """Write an evaluation, and tell its headline."""
    (content / RESULT).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False))
    for name, value in headline.items():
        metric(name, value)
    named = {name: evaluation[name] for name in ("format", "model_fingerprint", "part")}
    return EvaluationArtifact.at(content, EvaluationFacts(**named, others=headline))
