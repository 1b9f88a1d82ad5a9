"""Every loss per token by name."""

from __future__ import annotations

from compressors.distill.divergences.chunked import ChunkLikelihood
from compressors.distill.divergences.f_family import AlphaDivergence, ChiSquare, TotalVariation
from compressors.distill.divergences.kullback import ForwardKL, Jeffreys, ReverseKL
from compressors.distill.divergences.listwise import AnchoredListwise
from compressors.distill.divergences.mixtures import JensenShannon, SkewKL
from compressors.distill.divergences.policy import ClippedRatio, TeacherRatio
from compressors.distill.divergences.sampled import K2, K3, SampledToken
from compressors.distill.divergences.shapes import CrossEntropy, PlackettLuce, SquaredError, StudentEntropy
from compressors.distill.traits import Divergence

DIVERGENCES: dict[str, type[Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jeffreys": Jeffreys,
    "jensen_shannon": JensenShannon,
    "skew_kl": SkewKL,
    "total_variation": TotalVariation,
    "alpha": AlphaDivergence,
    "chi_square": ChiSquare,
    "cross_entropy": CrossEntropy,
    "squared_error": SquaredError,
    "k2": K2,
    "k3": K3,
    "sampled_token": SampledToken,
    "plackett_luce": PlackettLuce,
    "student_entropy": StudentEntropy,
    "clipped_ratio": ClippedRatio,
    "teacher_ratio": TeacherRatio,
}
# over the sequences of a prompt instead of the tokens
LISTWISE: dict[str, type[AnchoredListwise]] = {"anchored_listwise": AnchoredListwise}
# over chunks of text that the tokenizers of student and teacher agree on
CHUNKWISE: dict[str, type[ChunkLikelihood]] = {"chunk_likelihood": ChunkLikelihood}
