"""Every loss per token by name."""

from __future__ import annotations

from attar.compressors.distill.losses.divergences.chunked import ChunkLikelihood
from attar.compressors.distill.losses.divergences.f_family import AlphaDivergence, ChiSquare, TotalVariation
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, Jeffreys, ReverseKL
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise
from attar.compressors.distill.losses.divergences.mixtures import JensenShannon, SkewKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio, TeacherRatio
from attar.compressors.distill.losses.divergences.sampled import K2, K3, SampledToken
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy, PlackettLuce, SquaredError, StudentEntropy
from attar.compressors.distill.losses.traits import Divergence

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
