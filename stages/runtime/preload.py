"""What the fork server imports, so that no node waits for it: the stages, the model classes and PEFT.

Not lm-eval, nor MLflow: they would lie in the memory of every stage (94 and 112 MB), for the second that `evaluate` and `register` take.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from gc import set_threshold
from importlib import import_module
from typing import Any

from attar.registry.artifacts.environment import configure_process

MODULES = (
    "attar.stages.catalogue",
    "accelerate",
    "httpx",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "attar.compressors.models.torch_slots",
    "peft.tuners.lora",
    "onnxruntime",
)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let `torch.compile` give back what it is handed, inside the block."""
    import torch  # the fork server's, whose first import this is

    def unchanged(model: Any = None, **_: Any) -> Any:
        return model if model is not None else unchanged

    compiled: Callable[..., Any] = torch.compile
    torch.compile = unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiled  # type: ignore[assignment]


set_threshold(
    100_000
)  # imports make half a million objects and no garbage; a stage's process looks for it as often as any
configure_process()  # the fork server is a process of its own: what is silenced in its parent still speaks here
# PEFT imports it, and it asks for compiled forms of kernels that a CPU has in C, which brings torch's whole compiler
with suppress(ImportError), _uncompiled():
    import_module("bitsandbytes")
for name in MODULES:
    try:
        import_module(name)
    except ImportError:  # an extra that is not installed: the stage that needs it says so
        continue
