"""Agreement over texts of several lengths, as a runtime leaves them that stops at an end of text."""

from __future__ import annotations

from pathlib import Path

import torch

from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.stages.ingest.tiny_model import random_model


def test_a_text_that_stops_early_counts_by_the_tokens_that_it_has(tmp_path: Path) -> None:
    model, _ = random_model("llama", num_blocks=1)
    runner, prompts = TorchRunner(model), [[5, 6, 7], [9, 10]]
    own = [text.token_ids for text in decode(runner, prompts, max_new_tokens=6, stop_ids=())]
    written = {tuple(prompts[0]): own[0][:2], tuple(prompts[1]): [*own[1][:3], own[1][3] + 1, 0, 0]}
    answers = listen_to(runner, prompts, tmp_path, num_new_tokens=6, write=lambda prompt: written[tuple(prompt)])
    parity = measure_parity(answers, runner)
    assert parity.token_agreement == (2 + 3) / (2 + 6)
    assert parity.max_logit_difference < 1e-5 and bool(torch.isfinite(torch.tensor(parity.mean_logit_difference)))
