"""Pictures with painted masks, as ComfyUI's mask editor leaves them: what is painted is transparent."""

from __future__ import annotations

import pathlib

from PIL import Image, ImageOps

from .comfyui import PACK_ROOT

PAIR = PACK_ROOT / "example_pairs" / "house_a+roof_a"
# the names that the shipped workflows load, and the pictures of the example pair that stand for them
PICTURES = {
    "concept_1.png": "0_house_a0",
    "concept_2.png": "0_house_a1",
    "component_1.png": "1_roof_a0",
    "component_2.png": "1_roof_a2",
    "example.png": "1_roof_a0",
}


def write_input_pictures(folder: str | pathlib.Path, side: int = 512) -> None:
    """Write `PICTURES` into an input folder, the pair's masks painted on them, no side longer than `side`."""
    for name, stem in PICTURES.items():
        with Image.open(PAIR / f"{stem}.jpg") as picture, Image.open(PAIR / "masks" / f"{stem}.png") as mask:
            painted = picture.convert("RGB")
            painted.putalpha(ImageOps.invert(mask.convert("L")))
            painted.thumbnail((side, side))
            painted.save(pathlib.Path(folder) / name)
