"""What the fork server imports, so that no node waits for it: the stages, the model classes and PEFT.

Not lm-eval, nor MLflow: they would lie in the memory of every stage (94 and 112 MB), for the second that `evaluate` and `register` take.
"""

from gc import set_threshold
from importlib import import_module

from attar.registry.artifacts.environment import configure_process

MODULES = (
    "attar.stages.catalogue",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "attar.compressors.models.torch_slots",
    "peft.tuners.lora",
    "onnxruntime",
)

set_threshold(
    100_000
)  # imports make half a million objects and no garbage; a stage's process looks for it as often as any
configure_process()  # the fork server is a process of its own: what is silenced in its parent still speaks here
for name in MODULES:
    try:
        import_module(name)
    except ImportError:  # an extra that is not installed: the stage that needs it says so
        continue
