"""Every verifier of an answer by name: those of `compressors/self_data`, and the one that runs code, which needs a process."""

from __future__ import annotations

from compressors.self_data.structure import FitsSchema, MatchesPattern
from compressors.self_data.verifiers import VERIFIERS, Verifier
from stages.sandbox import PassesTests

ANSWER_CHECKS: dict[str, type[Verifier]] = {
    **VERIFIERS,
    "pattern": MatchesPattern,
    "json_schema": FitsSchema,
    "unit_tests": PassesTests,
}
