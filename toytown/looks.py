"""Colours and patterns.

Those in `UNSEEN_COLOURS` and `UNSEEN_PATTERNS` never appear in what the model is trained on, so no word names them.
"""

from __future__ import annotations

import dataclasses
import functools
import random

import numpy as np
from PIL import Image

SUPERSAMPLING = 3

COLOURS = {
    "red": (212, 40, 42),
    "orange": (242, 138, 28),
    "yellow": (246, 218, 62),
    "green": (46, 150, 64),
    "teal": (36, 168, 172),
    "blue": (44, 84, 212),
    "purple": (132, 58, 172),
    "pink": (246, 150, 196),
    "brown": (126, 80, 44),
    "white": (242, 242, 240),
    "gray": (140, 140, 146),
    "black": (34, 34, 38),
}
UNSEEN_COLOURS = {
    "coral": (255, 118, 104),
    "lime": (180, 236, 36),
    "navy": (18, 34, 104),
    "mint": (158, 238, 200),
    "maroon": (112, 14, 52),
    "lavender": (190, 172, 244),
    "olive": (122, 126, 32),
    "tan": (214, 178, 132),
}
PATTERNS = ("solid", "striped", "dotted", "checked")
UNSEEN_PATTERNS = ("zigzag", "rings", "grid")
PERIOD = 12  # pixels of the final picture from one stripe to the next; finer ones do not survive the autoencoder

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Look:
    """How a body or a part is painted: `pattern` is drawn in a lighter or darker shade of `colour` (RGB, 0..255)."""

    colour: Colour
    pattern: str = "solid"

    @property
    def shade(self) -> Colour:
        """The second colour of the pattern."""
        light = sum(self.colour) > 330
        return tuple(round(c * 0.45) if light else round(c + (255 - c) * 0.6) for c in self.colour)


def random_look(rng: random.Random) -> Look:
    """A look of the kind the model is trained on."""
    pattern = "solid" if rng.random() < 0.4 else rng.choice(PATTERNS[1:])
    return Look(jittered(rng.choice(list(COLOURS.values())), rng), pattern)


def jittered(colour: Colour, rng: random.Random, reach: int = 12) -> Colour:
    """A colour nearby, as light or a camera would change it."""
    return tuple(min(255, max(0, c + rng.randint(-reach, reach))) for c in colour)


def nearest_colour(colour: Colour) -> str:
    """The word for a colour."""
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], colour, strict=True)))


def painted(look: Look, side: int, origin: tuple[float, float]) -> Image.Image:
    """A square of `side` supersampled pixels in a look, whose pattern starts at `origin` (x, y)."""
    image = Image.new("RGB", (side, side), look.colour)
    if look.pattern != "solid":
        image.paste(look.shade, mask=Image.fromarray(pattern_mask(look.pattern, side, origin)))
    return image


def pattern_mask(pattern: str, side: int, origin: tuple[float, float]) -> np.ndarray:
    """Where the second colour lies, (side, side) uint8 of 0 and 255; the pattern moves with the thing it is on."""
    period = PERIOD * SUPERSAMPLING
    rows, columns = _grid(side)
    x, y = (columns - origin[0]) / period, (rows - origin[1]) / period
    if pattern == "striped":
        marked = np.mod(y, 1) < 0.5
    elif pattern == "dotted":
        marked = np.hypot(np.mod(x, 1) - 0.5, np.mod(y, 1) - 0.5) < 0.32
    elif pattern == "checked":
        marked = (np.mod(x, 1.2) < 0.6) ^ (np.mod(y, 1.2) < 0.6)
    elif pattern == "zigzag":
        marked = np.mod(y + np.abs(np.mod(x / 1.4, 1) - 0.5) * 1.6, 1) < 0.5
    elif pattern == "rings":
        marked = np.mod(np.hypot(x, y), 1) < 0.5
    elif pattern == "grid":
        marked = (np.mod(x, 1) < 0.3) | (np.mod(y, 1) < 0.3)
    else:
        raise ValueError(f"no pattern is called {pattern!r}")
    return marked.astype(np.uint8) * 255


@functools.lru_cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    return rows, columns
