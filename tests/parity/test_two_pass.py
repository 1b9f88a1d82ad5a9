"""Two-pass guidance writes, token for token, what transformers' own guided generation writes."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor

from attar.compressors.guidance.scores import guided_scores
from attar.compressors.guidance.two_pass import GuidedPrompt, TwoPassRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.stages.ingest.tiny_model import random_model

PROMPTS = [[1, 40, 41, 42, 43], [1, 50, 51], [1, 60, 61, 62, 63, 64, 65, 66], [1, 44]]
NEGATIVES = [[1, 99, 98], [1, 97, 96, 95, 94, 93, 92], [1, 91], [1, 90, 89]]
NUM_NEW = 24


def guided_by_transformers(model, weak, prompt: list[int], unguided: list[int], scale: float) -> list[int]:
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, weak, torch.tensor([unguided]))
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NUM_NEW,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([processor]),
    )
    return ids[0, len(prompt) :].tolist()


def guided_by_us(model, weak, prompts, unguided, scales, batch_size: int) -> list[list[int]]:
    runner = TwoPassRunner(TorchRunner(model), TorchRunner(weak), max(map(len, unguided)))
    guided = [GuidedPrompt(*parts) for parts in zip(prompts, unguided, scales, strict=True)]
    written = decode(runner, guided, max_new_tokens=NUM_NEW, stop_ids=[2], batch_size=batch_size)
    return [answer.token_ids for answer in written]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_negative_prompts_give_transformers_tokens(family: str, batch_size: int) -> None:
    """Rows of a batch have their own scale, length and place; transformers does one at a time."""
    model, _ = random_model(family, num_blocks=2)
    scales = [1.5, 3.0, 0.0, 2.0]
    ours = guided_by_us(model, model, PROMPTS, NEGATIVES, scales, batch_size)
    for text, prompt, negative, scale in zip(ours, PROMPTS, NEGATIVES, scales, strict=True):
        assert text == guided_by_transformers(model, model, prompt, negative, scale)


def test_guidance_scale_of_generate_itself_and_the_dropped_prompt() -> None:
    """`generate(guidance_scale=...)` without a negative prompt begins its other branch with the prompt's last token."""
    model, _ = random_model("llama", num_blocks=2)
    for prompt in PROMPTS:
        reference = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NUM_NEW,
            do_sample=False,
            guidance_scale=2.5,
            eos_token_id=2,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        [ours] = guided_by_us(model, model, [prompt], [prompt[-1:]], [2.5], 1)
        assert ours == reference
        [plain] = guided_by_us(model, model, [prompt], [prompt[-1:]], [1.0], 1)
        assert ours != plain, "guidance says something else, or the test proves nothing"


def test_a_weak_model_gives_contrastive_decoding() -> None:
    model, _ = random_model("llama", num_blocks=3)
    weak, _ = random_model("llama", num_blocks=1, seed=4)
    ours = guided_by_us(model, weak, PROMPTS, PROMPTS, [1.7] * 4, 4)
    assert ours == [guided_by_transformers(model, weak, prompt, prompt, 1.7) for prompt in PROMPTS]


def test_scores_are_the_processors() -> None:
    generator = torch.Generator().manual_seed(0)
    conditional, unguided = torch.randn(2, 5, 31, generator=generator).mul(4.0)
    ours = guided_scores(conditional, unguided, torch.full((5,), 2.2))
    log_c, log_u = conditional.log_softmax(-1), unguided.log_softmax(-1)
    torch.testing.assert_close(ours, log_u + 2.2 * (log_c - log_u), atol=1e-5, rtol=0)
    torch.testing.assert_close(guided_scores(conditional, unguided, 1.0), log_c, atol=1e-5, rtol=0)
    torch.testing.assert_close(guided_scores(conditional, unguided, 0.0), log_u, atol=0, rtol=0)
