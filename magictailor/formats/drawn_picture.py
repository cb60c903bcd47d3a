"""Drawn pictures on disk: PNG files that say how they were made, as A1111 writes it and other programs read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .new_file import new_file


def infotext(prompt: str, negative_prompt: str, settings: Mapping[str, Any]) -> str:
    """The settings of a picture."""
    lines = [prompt, f"Negative prompt: {negative_prompt}"] if negative_prompt else [prompt]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def write_picture(picture: Tensor, path: Path, infotext: str = "") -> None:
    """Write a new PNG file.

    Args:
        picture: (C, H, W) in [0, 1], grey with one channel.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    pixels = (picture.clamp(0.0, 1.0) * 255).round().byte().cpu()
    image = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
    info = PngInfo()
    if infotext:
        info.add_itxt("parameters", infotext)
    with new_file(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
