"""A folder's scheduler: what noise it adds, what it wants predicted, how it steps. Other ones than DDIM's are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.compressors.diffusion.process import PREDICTIONS, SPACINGS, NoiseProcess
from attar.stages.artifacts.denoiser.nets import scheduler_of
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object

CONFIG = "scheduler_config.json"
# No published denoiser was trained with more; each is an entry of several tables.
MAX_TIMESTEPS = 10_000
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
    num_timesteps = config.get("num_train_timesteps", DEFAULT["num_train_timesteps"])
    if not isinstance(num_timesteps, int) or isinstance(num_timesteps, bool) or not 1 <= num_timesteps <= MAX_TIMESTEPS:
        raise ValueError(
            f"{path}: num_train_timesteps is {str(num_timesteps)[:40]}; accepted: 1 to {MAX_TIMESTEPS:,}, a whole number"
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
    _refuse_no_noise(path, whole)
    return whole


def full_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler's config with the defaults of diffusers. Raises ValueError for one that it does not take."""
    scheduler = scheduler_of(DDIM)
    try:
        return {**scheduler.from_config(config).config, "_class_name": DDIM}
    except Exception as error:  # whatever a library makes of a number that is a text
        raise ValueError(f"scheduler: diffusers does not take it: {one_line(error)}") from error


def process_of(config: dict[str, Any]) -> NoiseProcess:
    """Return the noise process of a scheduler that was checked."""
    scheduler = scheduler_of(DDIM).from_config(config)
    clip = float(config["clip_sample_range"]) if config["clip_sample"] else 0.0
    return NoiseProcess.of(scheduler.alphas_cumprod, config["prediction_type"], config["timestep_spacing"], clip)


def _refuse_no_noise(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError for a scheduler whose numbers are no shares of an image in noise, or from whose first state no image can be told."""
    try:
        process = process_of(config)
        alpha = process.alpha
        is_fine = bool(alpha.isfinite().all()) and process.clip >= 0 and bool((alpha.diff()[:-1] <= 0).all())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}; accepted: numbers that DDIM computes with") from error
    if not is_fine or bool((alpha < 0).any()) or bool((alpha > 1).any()):
        raise ValueError(
            f"{path}: its betas leave no share of the image that falls from 1 toward 0; accepted: betas in (0, 1)"
        )
    if process.prediction == "epsilon" and not bool((alpha > 0).all()):
        raise ValueError(
            f"{path}: prediction_type is 'epsilon', but the last state is pure noise, which says nothing of an image; accepted: "
            "v_prediction or sample with it"
        )


def write_scheduler(config: dict[str, Any], folder: Path) -> None:
    """Write a scheduler's config as diffusers does."""
    scheduler_of(DDIM).from_config(config).save_pretrained(folder)
