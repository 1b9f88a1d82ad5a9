"""Every way to merge whole models, by name. To add one: a frozen dataclass, a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from attar.compressors.merge.dare import DareLinear, DareTies
from attar.compressors.merge.group import MergeMethod, TensorGroup
from attar.compressors.merge.linear import Linear, TaskArithmetic
from attar.compressors.merge.means import Karcher, ModelStock
from attar.compressors.merge.setting import filters, locations
from attar.compressors.merge.slerp import Slerp
from attar.compressors.merge.ties import Ties

MERGE_METHODS: dict[str, type[MergeMethod]] = {
    "linear": Linear,
    "slerp": Slerp,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare_linear": DareLinear,
    "dare_ties": DareTies,
    "model_stock": ModelStock,
    "karcher": Karcher,
}


def check_num_models(name: str, method: MergeMethod, num_models: int) -> None:
    """Raise ValueError when the method takes another number of models, or has weights for another number."""
    least, most = method.num_models
    if num_models < least or (most and num_models > most):
        accepted = str(least) if least == most else f"{least} or more"
        raise ValueError(f"students: method {name!r} takes {accepted}, not {num_models}")
    weights = getattr(method, "weights", ())
    if weights and len(weights) != num_models:
        raise ValueError(f"params.weights has {len(weights)} entries for {num_models} students")


def check_filters(method: MergeMethod, names: Sequence[str]) -> None:
    """Raise ValueError for a rule whose filter fits no tensor: a mistyped one would silently leave all to the next."""
    settings = [getattr(method, name) for name in ("t", "density", "scale") if hasattr(method, name)]
    for name_part in (part for setting in (*settings, *getattr(method, "weights", ())) for part in filters(setting)):
        if not any(name_part in name for name in names):
            raise ValueError(
                f"filter {name_part!r} fits no tensor; there are names such as {', '.join(list(names)[:3])}"
            )


def merge_states(
    method: MergeMethod, models: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (merged weights in the first's dtype, which branch each tensor took) of models held in memory.

    Raises ValueError when two differ in the shape of a tensor.
    """
    merged, branches = {}, {}
    for location in locations(list(models[0])):
        tensors = tuple(model[location.name] for model in models)
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(f"{location.name}: {' and '.join(str(tuple(t.shape)) for t in tensors)} cannot be merged")
        result = method(TensorGroup(location, tensors, base[location.name] if base is not None else None))
        merged[location.name], branches[location.name] = result.tensor(tensors[0]), result.branch
    return merged, branches
