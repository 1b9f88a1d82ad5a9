"""What the fork server imports besides the stages, so that no node waits for it: the model classes and MLflow.

Not lm-eval: 94 MB in the memory of every stage, for the half second that `evaluate` alone then takes to import it.
"""

from importlib import import_module

from registry.environment import configure_process

MODULES = (
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "peft.tuners.lora",
    "registry.model_flavor",
    "registry.model_registry",
    "onnxruntime",
)

configure_process()  # the fork server is a process of its own: what is silenced in its parent still speaks here
for name in MODULES:
    try:
        import_module(name)
    except ImportError:  # an extra that is not installed: the stage that needs it says so
        continue
