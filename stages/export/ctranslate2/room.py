"""The CTranslate2 form of a model: written by its own converter, opened by its generator beside torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attar.compressors.export.parity import listen_to
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import CTranslate2Artifact
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, without_bars
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.model.turn_end import all_ends
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.ctranslate2.families import refuse_other_families
from attar.stages.export.ctranslate2.runner import CTranslate2Runner, open_folder
from attar.stages.export.formats.ctranslate2 import CTranslate2Format
from attar.stages.export.proof.parity import prove_parity
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.export.proof.rounding import FloatAnswers, measure_rounding, record_answers
from attar.stages.export.proof.shape import shape_of, weight_facts
from attar.stages.quantize.limits import decode_seconds
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar

PACKAGE, INSTALL = "ctranslate2", "pip install 'attar[ctranslate2]'"
WEIGHTS, PROOF = "model.bin", "proof.json"
BITS = {"float32": 32, "int8": 8}


def forecast_ctranslate2(form: CTranslate2Format, model: Facts) -> Forecast:
    """Return what the folder will be and take. Raises ValueError without its package, and for a family that it is not written for."""
    if "architecture" in model:
        refuse_other_families(str(model["architecture"]))
    _refuse_no_package()
    num_parameters = float(model.get("num_parameters", 0))
    num_bytes = num_parameters * BITS[form.weights] / 8
    facts = {**shape_of(model), "format": "ctranslate2", "quantization": form.weights, "weight_bytes": num_bytes}
    # the converter holds the model twice
    return Forecast(facts, peak_memory_bytes=9.0 * num_parameters, disk_bytes=stored_bytes(facts))


def export_ctranslate2(
    form: CTranslate2Format, config: ExportConfig, inputs: ExportInputs, workdir: Path
) -> CTranslate2Artifact:
    """Write the folder, and have CTranslate2 say and write what torch does. In int8 KL is held to the limit instead.

    Raises ValueError for a family or a setting that the converter does not know, and for other text or logits.
    """
    source, content = inputs.model.path, workdir / "content"
    family = str(read_object(source / "config.json").get("model_type"))
    refuse_other_families(family)
    _refuse_no_package()
    prompts = proof_prompts(inputs, config.num_prompts)
    answers = None
    if form.weights == "int8":
        original = TorchRunner(load_model(source, torch.float32))
        answers = record_answers(original, prompts, config.num_new_tokens, workdir / "logits")
        del original
        give_back()
    _convert(source, form, content)
    facts = _proved(form, config, source, answers, content, prompts, workdir)
    (content / PROOF).write_text(json.dumps(facts, indent=1))
    sizes = weight_facts((content / WEIGHTS).stat().st_size, inputs.model.facts.num_parameters)
    known = {"format": form.kind, "quantization": form.weights, "architecture": family}
    return CTranslate2Artifact.at(content, {**shape_of(inputs.model.facts), **known, **sizes, **facts})


def _refuse_no_package() -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        raise ValueError(f"format.kind is 'ctranslate2', which needs the package ctranslate2: {INSTALL}")


def _convert(source: Path, form: CTranslate2Format, content: Path) -> None:
    converters = importlib.import_module("ctranslate2.converters")
    steps = bar("converting", 1, "steps")
    kind = "int8_float32" if form.weights == "int8" else form.weights  # what is no matrix stays float32
    try:
        with without_bars():
            converters.TransformersConverter(str(source)).convert(str(content), quantization=kind, force=True)
    except Exception as error:  # the converter's own, of any kind: a setting that it does not know
        raise ValueError(f"CTranslate2 does not convert this model: {one_line(error)}") from error
    steps.advance()
    _name_missing_tokens(content / "config.json")
    copy_tokenizer(source, content)
    give_back()


def _name_missing_tokens(path: Path) -> None:
    """Say that a tokenizer has no such token as the runtime reads it: for some families the converter writes null, and the runtime refuses it."""
    config = read_object(path)
    named = {name: "" if value is None and name.endswith("_token") else value for name, value in config.items()}
    path.write_text(json.dumps(named, indent=2) + "\n")


def _proved(
    form: CTranslate2Format,
    config: ExportConfig,
    source: Path,
    answers: FloatAnswers | None,
    content: Path,
    prompts: list[list[int]],
    workdir: Path,
) -> dict[str, Any]:
    """Prove the folder and return what was seen, by the names of facts."""
    runner = open_folder(content, form.weights, all_ends(load_tokenizer(source), source))
    reference = TorchRunner(load_model(source, torch.float32))
    if answers is None:
        facts: dict[str, Any] = _parity(config, runner, reference, prompts, workdir)
    else:  # a product rounds its inputs too: no torch model computes the same
        facts = asdict(measure_rounding(runner, answers, weights=form.weights, max_kl_nats=form.max_kl_nats))
    vocab_size = reference.model.config.vocab_size
    return {**facts, **decode_seconds(runner.time_once, reference, vocab_size), "readers": ("ctranslate2",)}


def _parity(
    config: ExportConfig, runner: CTranslate2Runner, reference: TorchRunner, prompts: list[list[int]], workdir: Path
) -> dict[str, float]:
    counter = bar("writing with CTranslate2", len(prompts), "prompts")
    heard = listen_to(
        runner,
        prompts,
        workdir / "heard",
        num_new_tokens=config.num_new_tokens,
        on_prompt=counter.advance,
        write=partial(runner.write, num_new_tokens=config.num_new_tokens),
    )
    parity = prove_parity(
        config,
        heard,
        reference,
        reading="CTranslate2 runs the folder",
        refusal="CTranslate2's folder is not the model",
    )
    return {"token_agreement": parity.token_agreement, "max_logit_difference": parity.max_logit_difference}
