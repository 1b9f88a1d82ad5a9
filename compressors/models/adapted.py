"""Whether a model carries PEFT's adapters, asked without importing PEFT, which takes half a second and brings bitsandbytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from peft import PeftModel


def is_adapted(model: Any) -> TypeGuard[PeftModel]:
    """True for a model that PEFT has wrapped; where nothing has imported PEFT, none is."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)
