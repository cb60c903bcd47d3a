"""Pictures of things with a body and a part, and their exact masks, all from a seed.

Every thing stands before one of eight backgrounds.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .backgrounds import BACKGROUNDS, PAINTERS
from .looks import SUPERSAMPLING, Look, painted, random_look
from .things import PARTS, THINGS, Shape

SIZE = 64


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that a picture shows. `layout` seeds where things stand and how the background lies."""

    kind: str
    body: Look
    part: Look
    background: str
    layout: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """A rendered scene: `pixels` (SIZE, SIZE, 3) uint8; `body` and `part` (SIZE, SIZE) bool, disjoint."""

    pixels: np.ndarray
    body: np.ndarray
    part: np.ndarray


def render(scene: Scene) -> Picture:
    """Draw a scene. A pixel belongs to the region that covers more than half of it."""
    side = SIZE * SUPERSAMPLING
    rng = random.Random(scene.layout)
    canvas = Image.new("RGB", (side, side))
    PAINTERS[scene.background](ImageDraw.Draw(canvas), side, rng)
    place = _place(rng, side)
    shapes = THINGS[scene.kind]()
    origin = place(0.0, 0.0)
    body, part = _mask(shapes.body, place, side), _mask(shapes.part, place, side)
    details = [(colour, _mask([shape], place, side)) for colour, shape in shapes.details]
    if shapes.part_in_front:
        body = _without(body, part)
    else:
        part = _without(part, body)
    canvas.paste(painted(scene.body, side, origin), mask=body)
    for colour, mask in details:
        canvas.paste(colour, mask=_without(mask, part) if shapes.part_in_front else mask)
    canvas.paste(painted(scene.part, side, origin), mask=part)
    return Picture(
        pixels=np.array(canvas.reduce(SUPERSAMPLING)),
        body=np.asarray(body.reduce(SUPERSAMPLING)) > 127,
        part=np.asarray(part.reduce(SUPERSAMPLING)) > 127,
    )


def random_scene(rng: random.Random) -> Scene:
    """A scene of the kind the model is trained on."""
    return Scene(
        kind=rng.choice(list(PARTS)),
        body=random_look(rng),
        part=random_look(rng),
        background=rng.choice(list(BACKGROUNDS)),
        layout=rng.getrandbits(32),
    )


_Place = Callable[[float, float], tuple[float, float]]


def _place(rng: random.Random, side: int) -> _Place:
    scale = side * rng.uniform(0.62, 0.78)
    width = scale * rng.uniform(0.9, 1.1)
    mirror = rng.choice((-1, 1))
    x, y = side * (0.5 + rng.uniform(-0.09, 0.09)), side * (0.53 + rng.uniform(-0.05, 0.05))
    return lambda u, v: (x + mirror * width * u, y + scale * v)


def _mask(shapes: Sequence[Shape], place: _Place, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    for points in shapes:
        draw.polygon([place(u, v) for u, v in points], fill=255)
    return mask


def _without(mask: Image.Image, other: Image.Image) -> Image.Image:
    cut = mask.copy()
    cut.paste(0, mask=other)
    return cut
