"""What a loss per token is and needs, and the tokens as they were drawn. Read where a recipe loads and where losses are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import Fact


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What holds for a loss.

    `is_divergence`: never negative, and zero only between equals; of a sampled one, in expectation over the drawn token.
    `needs_target`: it compares with a target. `needs_whole`: it is no f-divergence, so that recorded candidates with a rest do not do.
    `needs_support`: infinite where the target gives no mass, as labels do. `needs_old`: of the policy that drew the tokens.
    `reads_density`: single entries' probabilities beside their ratios, which an entry that stands for several does not have.
    `needs_reward`: of a verifier. `needs_groups`: it compares the sequences of a prompt. `needs_student_draws`: its expectation is
    over tokens that the student drew.
    """

    is_divergence: bool = True
    needs_target: bool = True
    needs_whole: bool = False
    needs_support: bool = False
    reads_density: bool = False
    needs_student_draws: bool = False
    needs_old: bool = False
    needs_reward: bool = False
    needs_groups: bool = False

    @property
    def facts(self) -> frozenset[Fact]:
        """Return what must be known of the sequences."""
        needs: dict[Fact, bool] = {
            "student_draws": self.needs_student_draws,
            "old_logprobs": self.needs_old,
            "rewards": self.needs_reward,
            "groups": self.needs_groups,
        }
        return frozenset(fact for fact, is_needed in needs.items() if is_needed)


@dataclass(frozen=True)
class Drawn:
    """The tokens as they were drawn: their outcome, and where a policy drew them its log-probability (nats) and their advantage."""

    outcomes: Int[Tensor, "N"]
    old_logprobs: Float[Tensor, "N"] | None = None
    advantages: Float[Tensor, "N"] | None = None

    def of(self, logprobs: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
        """Return the log-probabilities of the drawn tokens."""
        return logprobs.gather(-1, self.outcomes[:, None]).squeeze(-1)


class Divergence(Protocol):
    """Maps target and student, log-probabilities of N tokens over C outcomes, to a loss per token in nats. The target has no gradient."""

    @property
    def traits(self) -> Traits: ...

    def __call__(
        self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn
    ) -> Float[Tensor, "N"]: ...
