"""The small models of demo and tests, made once and kept until the code that makes them changes."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil

from filelock import FileLock

from .checkpoint import SD2_BASE, SD2_V, SDXL, make_checkpoint, make_sd1_checkpoint
from .comfyui import STATE_DIR
from .controlnet import make_controlnet
from .mask_models import make_mask_models
from .taesd import make_taesd
from .upscaler import make_upscaler

SD1_CHECKPOINT = "sd15_small.safetensors"
CONTROLNET = "control_v11p_sd15_canny.pth"
UPSCALER = "RealESRGAN_x4plus.pth"
OTHER_FAMILIES = {"sd2": SD2_BASE, "sd2_v": SD2_V, "sdxl": SDXL}
RECIPES = (
    "checkpoint.py",
    "controlnet.py",
    "mask_models.py",
    "models.py",
    "random_weights.py",
    "taesd.py",
    "upscaler.py",
)


def small_models(cache: str | pathlib.Path = STATE_DIR / "models") -> pathlib.Path:
    """A models folder with the small SD 1.x checkpoint, "taesd", mask models, ControlNet and upscaler, all random."""
    cache = pathlib.Path(cache)
    stamp, recipe = cache / "recipe.sha256", _recipe()
    with _alone(cache):
        if not stamp.is_file() or stamp.read_text() != recipe:
            shutil.rmtree(cache, ignore_errors=True)
            make_sd1_checkpoint(cache / "checkpoints" / SD1_CHECKPOINT)
            make_taesd(cache)
            make_mask_models(cache)
            make_controlnet(cache / "controlnet" / CONTROLNET)
            make_upscaler(cache / "upscale_models" / UPSCALER)
            stamp.write_text(recipe)
    return cache


def family_checkpoint(name: str, cache: str | pathlib.Path = STATE_DIR / "models") -> pathlib.Path:
    """The small checkpoint of one of `OTHER_FAMILIES`, made in the same models folder when it is first asked for."""
    cache = pathlib.Path(cache)
    with _alone(cache):
        path = small_models(cache) / "checkpoints" / f"{name}_small.ckpt"
        return path if path.is_file() else make_checkpoint(OTHER_FAMILIES[name], path)


def share_models(cache: pathlib.Path, models_dir: pathlib.Path) -> None:
    """Put all files of `cache` into `models_dir` without using the space twice where the file system allows."""
    with _alone(cache):
        for source in cache.rglob("*"):
            target = models_dir / source.relative_to(cache)
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif not target.exists():
                _link_or_copy(source, target)


def _alone(cache: pathlib.Path) -> FileLock:
    """Keeps other processes from the folder meanwhile; may be taken again by the one that holds it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(cache.with_suffix(".lock"), is_singleton=True)


def _link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another volume
        shutil.copy2(source, target)


def _recipe() -> str:
    digest = hashlib.sha256()
    for name in RECIPES:
        digest.update((pathlib.Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
