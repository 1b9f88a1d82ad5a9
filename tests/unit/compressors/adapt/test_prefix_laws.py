"""Laws of vectors before the prompt: where they stand, what they leave alone, what may learn (MEND, prompt distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.compressors.adapt.catalogue import ADAPT_METHODS
from attar.compressors.adapt.compressor import Compressor, PrefixCompressor
from attar.compressors.adapt.prefix import SoftPrefix
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.modality import CausalText
from attar.compressors.distill.losses.objectives import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.sources import Base
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import StudentItself
from attar.compressors.models.adapted import LearnedVectors, SoftTokens, put_before, soft_tokens, spread_rows
from attar.compressors.models.trained_weights import trained_weights
from attar.stages.ingest.tiny_model import random_model
from tests.builders import schedule_of, trainer_of

SHOWN = [[7, 8, 9, 10, 11, 12], [20, 21, 22]]
LEARNED = Reduction({"kl": ForwardKL()}, {"kl": 1.0})


def behind(tokens: SoftTokens, shown: Sequence[Sequence[int]] = SHOWN) -> list[Example]:
    """Two prompts behind each set of demonstrations, as the student reads them, and what the teacher reads instead."""
    prompts = [([30, 31], [40, 41, 2]), ([32, 33, 34, 35], [42, 2])]
    return [
        Example([*tokens.ids(group), *prompt], answer, hinted_ids=[*ids, *prompt], name=f"{group}")
        for group, ids in enumerate(shown)
        for prompt, answer in prompts
    ]


def model_with(method: Any, seed: int = 0) -> tuple[Any, SoftTokens]:
    torch.manual_seed(seed)
    model, _ = random_model("llama", num_blocks=3, hidden_size=32)
    # a random model makes little of what it reads: louder embeddings make contexts differ
    model.get_input_embeddings().weight.data.mul_(20.0)
    adapted = method(model, 0)
    tokens = soft_tokens(adapted)
    assert tokens is not None
    return adapted, tokens


def trainer_for(
    model: Any, examples: list[Example], num_steps: int = 1, *, is_packed: bool = True, rate: float = 1e-2
) -> Any:
    student = Student(model)
    steps = Steps(lambda epoch: list(range(len(examples))), examples, schedule_of(num_steps, rate))
    sources: Any = {"teacher": StudentItself(Base()).begin(student)}
    return trainer_of(student, examples, steps, LEARNED, teacher_sources=sources, modality=CausalText(is_packed))


def losses_of(trainer: Any) -> list[float]:
    return [record.losses["kl"] for record in trainer.run()]


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_vectors_that_are_the_demonstrations_own_embeddings_are_the_demonstrations(is_packed: bool) -> None:
    """Of positions, masks and packing: KL is zero only where a vector stands exactly where its token stood."""
    shown = SHOWN[:1]
    model, tokens = model_with(SoftPrefix(num_vectors=len(shown[0])))
    tokens.source.show(shown, tokens.table)
    examples = behind(tokens, shown)
    [loss] = losses_of(trainer_for(model, examples, is_packed=is_packed))
    assert abs(loss) < 1e-6
    turned, tokens = model_with(SoftPrefix(num_vectors=len(shown[0])))
    tokens.source.show([shown[0][::-1]], tokens.table)
    [other] = losses_of(trainer_for(turned, behind(tokens, shown), is_packed=is_packed))
    assert other > 1e-4, "the same vectors in another order are other demonstrations"


@pytest.mark.parametrize("method", [SoftPrefix(num_vectors=4), PrefixCompressor(num_vectors=4, num_blocks=2)])
def test_the_model_stays_bit_for_bit_and_gets_no_gradient(method: Any) -> None:
    model, tokens = model_with(method)
    shown = SHOWN[:1] if isinstance(method, SoftPrefix) else SHOWN
    tokens.source.show(shown, tokens.table)
    own = {id(parameter) for parameter in tokens.source.parameters()}
    base = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in own}
    start = trained_weights(model)
    assert start and all("source" in name for name in start), "the vectors or their compressor learn, and nothing else"
    losses = losses_of(trainer_for(model, behind(tokens, shown), num_steps=30))
    assert losses[-1] < 0.7 * losses[0]
    for name, parameter in model.named_parameters():
        if id(parameter) not in own:
            assert torch.equal(parameter, base[name]) and parameter.grad is None, name
    assert all(not torch.equal(value, start[name]) for name, value in trained_weights(model).items()), (
        "all of it learns"
    )


def test_a_text_without_vectors_is_read_as_before() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    plain, _ = random_model("llama", num_blocks=3, hidden_size=32)
    expected = plain(input_ids=ids).logits
    assert torch.equal(put_before(plain, LearnedVectors(torch.randn(4, 32)), 4)(input_ids=ids).logits, expected)


def test_the_loss_is_of_the_answers_tokens_alone() -> None:
    """The query mask: neither vectors nor prompt are learned, so that how many vectors there are changes no count."""
    for count in (1, 9):
        model, tokens = model_with(SoftPrefix(num_vectors=count))
        trainer = trainer_for(model, behind(tokens, SHOWN[:1]))
        [record] = list(trainer.run())
        assert record.num_tokens == 5


def compressor_of(num_vectors: int = 4) -> Compressor:
    torch.manual_seed(1)
    model, _ = random_model("llama", num_blocks=3, hidden_size=32)
    return PrefixCompressor(num_vectors=num_vectors, num_blocks=2).compressor(model).eval()


@torch.no_grad()
def test_as_many_vectors_come_of_any_demonstrations_and_of_none() -> None:
    compressor = compressor_of()
    for ids in ([], [5], list(range(3, 90))):
        vectors = compressor.compress([ids])
        assert vectors.shape == (1, 4, 32) and bool(vectors.isfinite().all())


@torch.no_grad()
def test_demonstrations_beside_others_give_the_vectors_that_they_give_alone() -> None:
    """Padding lies where no query sees it."""
    compressor = compressor_of()
    together = compressor.compress(SHOWN)
    for group, ids in enumerate(SHOWN):
        torch.testing.assert_close(together[group], compressor.compress([ids])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_query_sees_the_demonstrations_and_the_queries_before_it_alone() -> None:
    """What the last query is changes no vector but its own; the first token shown changes all."""
    compressor = compressor_of()
    before = compressor.compress([SHOWN[0]])[0]
    compressor.queries[-1] += 1.0
    after = compressor.compress([SHOWN[0]])[0]
    torch.testing.assert_close(after[:-1], before[:-1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(after[-1], before[-1])
    other = compressor.compress([[99, *SHOWN[0][1:]]])[0]
    assert all(not torch.equal(*pair) for pair in zip(other, after, strict=True))


def test_another_set_of_demonstrations_gives_other_vectors_and_its_own_gradient() -> None:
    _, tokens = model_with(PrefixCompressor(num_vectors=3, num_blocks=2))
    tokens.source.show(SHOWN, tokens.table)
    ids = torch.tensor([tokens.ids(0), tokens.ids(1), tokens.ids(0)])
    embedded: Tensor = tokens(ids)
    assert torch.equal(embedded[0], embedded[2]) and not torch.equal(embedded[0], embedded[1])


def test_more_vectors_do_not_hurt_once_they_have_learned() -> None:
    finals = []
    for count in (1, 6):
        model, tokens = model_with(SoftPrefix(num_vectors=count))
        tokens.source.show(SHOWN[:1], tokens.table)
        finals.append(min(losses_of(trainer_for(model, behind(tokens, SHOWN[:1]), num_steps=60, rate=3e-2))))
    assert finals[1] <= finals[0] + 1e-4


def test_vectors_begin_as_rows_spread_over_what_they_stand_for() -> None:
    assert spread_rows([5, 6, 7, 8], 4) == [5, 6, 7, 8]
    assert spread_rows([5, 6, 7, 8], 2) == [5, 7] and spread_rows([5], 3) == [5, 5, 5] and spread_rows([], 2) == [0, 0]


def test_a_compressor_of_the_whole_model_or_more_is_refused() -> None:
    model, _ = random_model("llama", num_blocks=3, hidden_size=32)
    with pytest.raises(ValueError, match=r"^adapt.num_blocks is 3, but the model has 3 blocks; accepted: 1 to 2$"):
        ADAPT_METHODS["compressor"](num_blocks=3)(model, 0)  # type: ignore[call-arg]
