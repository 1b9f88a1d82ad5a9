"""A folder's scheduler: what noise it adds, what it wants predicted, how it steps. Other ones than DDIM's are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.compressors.diffusion.process import PREDICTIONS, SPACINGS, NoiseProcess
from attar.stages.artifacts.denoiser.nets import scheduler_of
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object

CONFIG = "scheduler_config.json"
DDIM = "DDIMScheduler"
# What a random denoiser is trained with: zero signal at the last timestep, so that a single step from noise is well said.
DEFAULT = {
    "_class_name": DDIM,
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}


def scheduler_config(folder: Path) -> dict[str, Any]:
    """Return the config of a folder's scheduler, whole. Raises ValueError for one whose steps are others."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder.parent} has no scheduler/{CONFIG}, which says what the net predicts")
    config = read_object(path)
    if config.get("_class_name") != DDIM:
        raise ValueError(
            f"{path}: the scheduler is {config.get('_class_name')}; accepted: {DDIM}, whose steps are deterministic"
        )
    whole = full_config(config)
    prediction, spacing = whole["prediction_type"], whole["timestep_spacing"]
    if prediction not in PREDICTIONS:
        raise ValueError(f"{path}: prediction_type is {prediction!r}; accepted: {', '.join(PREDICTIONS)}")
    if spacing not in SPACINGS or whole["steps_offset"]:
        raise ValueError(
            f"{path}: timestep_spacing is {spacing!r} and steps_offset {whole['steps_offset']}; accepted: {' or '.join(SPACINGS)}, and 0"
        )
    if prediction == "epsilon" and whole["rescale_betas_zero_snr"]:
        raise ValueError(
            f"{path}: prediction_type is 'epsilon' with rescale_betas_zero_snr, but pure noise says nothing of an image by its noise; "
            "accepted: v_prediction or sample with it"
        )
    if whole["thresholding"] or not whole["set_alpha_to_one"]:
        given = "thresholding" if whole["thresholding"] else "set_alpha_to_one"
        raise ValueError(f"{path}: {given} is {whole[given]}; accepted: {not whole[given]}")
    return whole


def full_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler's config with the defaults of diffusers. Raises ValueError for one that it does not take."""
    try:
        return {**scheduler_of(DDIM).from_config(config).config, "_class_name": DDIM}
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"scheduler: diffusers does not take it: {one_line(error)}") from error


def process_of(config: dict[str, Any]) -> NoiseProcess:
    """Return the noise process of a scheduler that was checked."""
    scheduler = scheduler_of(DDIM).from_config(config)
    clip = float(config["clip_sample_range"]) if config["clip_sample"] else 0.0
    return NoiseProcess.of(scheduler.alphas_cumprod, config["prediction_type"], config["timestep_spacing"], clip)


def write_scheduler(config: dict[str, Any], folder: Path) -> None:
    """Write a scheduler's config as diffusers does."""
    scheduler_of(DDIM).from_config(config).save_pretrained(folder)
