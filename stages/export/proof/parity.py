"""Does a runtime compute the model? What it says to real prompts beside what torch says to them with the weights as they are written."""

from __future__ import annotations

from collections.abc import Sequence

from attar.compressors.export.parity import DecodedPrompt, Parity, measure_parity
from attar.compressors.models.runner import CausalRunner
from attar.stages.export.config import ExportConfig
from attar.stages.runtime.progress import bar, metric, note


def prove_parity(
    config: ExportConfig,
    answers: Sequence[DecodedPrompt],
    reference: CausalRunner,
    *,
    reading: str,
    refusal: str,
    suffix: str = "",
) -> Parity:
    """Compare what a runtime said with torch. `reading` begins the note, `refusal` the error, `suffix` ends the metrics.

    Raises ValueError where they differ.
    """
    counter = bar("comparing with torch", len(answers), "prompts")
    parity = measure_parity(answers, reference, on_prompt=counter.advance)
    for name in ("max_logit_difference", "mean_logit_difference", "token_agreement"):
        metric(name + suffix, getattr(parity, name))
    summary = f"max logit difference {parity.max_logit_difference:.2g}, greedy agreement {parity.token_agreement:.1%}"
    note(f"{reading}: {summary} over {parity.num_prompts} prompts")
    is_near = parity.max_logit_difference <= config.max_logit_difference
    if not is_near or parity.token_agreement < config.min_token_agreement:
        raise ValueError(
            f"{refusal}: {summary}; accepted: agreement >= {config.min_token_agreement:.0%}, "
            f"difference <= {config.max_logit_difference:g}"
        )
    return parity
