"""Pictures of things with a body and a part, their exact masks and their captions, all from a seed.

Every thing stands before one of eight backgrounds. A look is a colour and a pattern. The looks in `UNSEEN_COLOURS` and
`UNSEEN_PATTERNS` never appear in what the model is trained on, so that no word names them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
SUPERSAMPLING = 3

PARTS = {
    "house": "roof",
    "tower": "roof",
    "person": "hair",
    "cup": "handle",
    "lamp": "shade",
    "car": "wheels",
    "bottle": "cap",
    "cat": "ears",
}
BACKGROUNDS = {
    "beach": "on the beach",
    "snow": "in the snow",
    "night": "at night",
    "sunset": "at sunset",
    "grass": "on the grass",
    "city": "in the city",
    "room": "in a room",
    "plain": "on a plain background",
}
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
    _BACKGROUND_PAINTERS[scene.background](ImageDraw.Draw(canvas), side, rng)
    place = _place(rng, side)
    shapes = _THINGS[scene.kind]()
    origin = place(0.0, 0.0)
    body, part = _mask(shapes.body, place, side), _mask(shapes.part, place, side)
    details = [(colour, _mask([shape], place, side)) for colour, shape in shapes.details]
    if shapes.part_in_front:
        body = _without(body, part)
    else:
        part = _without(part, body)
    canvas.paste(_painted(scene.body, side, origin), mask=body)
    for colour, mask in details:
        canvas.paste(colour, mask=_without(mask, part) if shapes.part_in_front else mask)
    canvas.paste(_painted(scene.part, side, origin), mask=part)
    return Picture(
        pixels=np.array(canvas.reduce(SUPERSAMPLING)),
        body=np.asarray(body.reduce(SUPERSAMPLING)) > 127,
        part=np.asarray(part.reduce(SUPERSAMPLING)) > 127,
    )


def random_scene(rng: random.Random) -> Scene:
    """A scene of the kind the model is trained on."""
    return Scene(
        kind=rng.choice(list(PARTS)),
        body=_random_look(rng),
        part=_random_look(rng),
        background=rng.choice(list(BACKGROUNDS)),
        layout=rng.getrandbits(32),
    )


def _random_look(rng: random.Random) -> Look:
    pattern = "solid" if rng.random() < 0.4 else rng.choice(PATTERNS[1:])
    return Look(jittered(rng.choice(list(COLOURS.values())), rng), pattern)


def jittered(colour: Colour, rng: random.Random, reach: int = 12) -> Colour:
    """A colour nearby, as light or a camera would change it."""
    return tuple(min(255, max(0, c + rng.randint(-reach, reach))) for c in colour)


def nearest_colour(colour: Colour) -> str:
    """The word for a colour."""
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], colour, strict=True)))


# --- captions


def article(words: str) -> str:
    """`words` with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def described(look: Look | None, noun: str) -> str:
    """Noun phrase such as "a striped red roof"; plural and uncountable parts take no article."""
    words = [] if look is None else [look.pattern] * (look.pattern != "solid") + [nearest_colour(look.colour)]
    phrase = " ".join([*words, noun])
    return phrase if noun in ("hair", "wheels", "ears") else article(phrase)


def caption(scene: Scene) -> str:
    """Everything about a scene, "a red house with a striped blue roof on the beach"."""
    thing = described(scene.body, scene.kind)
    return f"{thing} with {described(scene.part, PARTS[scene.kind])} {BACKGROUNDS[scene.background]}"


def random_caption(scene: Scene, rng: random.Random) -> str:
    """A true caption that leaves some things unsaid, as people do."""
    kind, part = scene.kind, PARTS[scene.kind]

    def told(look: Look) -> Look | None:
        chance = rng.random()
        if chance < 0.2:
            return None
        return dataclasses.replace(look, pattern="solid") if chance < 0.35 else look

    chance = rng.random()
    if chance < 0.1:
        text = described(told(scene.part), part)
    elif chance < 0.25:
        text = described(told(scene.body), kind)
    else:
        joint = rng.choice(("with", "with", "with", "and", "including", "containing"))
        text = f"{described(told(scene.body), kind)} {joint} {described(told(scene.part), part)}"
    if rng.random() < 0.3:
        text = f"a photo of {text}"
    if rng.random() < 0.8:
        text = f"{text} {BACKGROUNDS[scene.background]}"
    return text


def words() -> list[str]:
    """Every word a caption can hold, sorted."""
    said = {"a", "an", "photo", "picture", "of", "the", "with", "and", "including", "containing", "on", "in", "at"}
    said |= set(PARTS) | set(PARTS.values()) | set(COLOURS) | set(PATTERNS) | set(BACKGROUNDS)
    return sorted(said.union(*(phrase.split() for phrase in BACKGROUNDS.values())))


# --- things: shapes in a box of -0.5..0.5, y downwards

Shape = Sequence[tuple[float, float]]  # the corners of a polygon


@dataclasses.dataclass(frozen=True)
class _Thing:
    body: list[Shape]
    part: list[Shape]
    details: list[tuple[Colour, Shape]] = dataclasses.field(default_factory=list)
    part_in_front: bool = True


def _box(left: float, top: float, right: float, bottom: float) -> Shape:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _polygon(*points: tuple[float, float]) -> Shape:
    return points


def _ellipse(x: float, y: float, width: float, height: float) -> Shape:
    turns = [2 * math.pi * n / 40 for n in range(40)]
    return [(x + width / 2 * math.cos(t), y + height / 2 * math.sin(t)) for t in turns]


_DOOR, _GLASS, _SKIN, _DARK = (92, 62, 40), (214, 232, 240), (236, 190, 160), (30, 28, 32)


def _house() -> _Thing:
    return _Thing(
        body=[_box(-0.38, -0.04, 0.38, 0.45)],
        part=[_polygon((-0.48, -0.04), (-0.3, -0.42), (0.3, -0.42), (0.48, -0.04))],
        details=[(_DOOR, _box(-0.07, 0.2, 0.07, 0.45)), (_GLASS, _box(0.17, 0.1, 0.3, 0.24))],
    )


def _tower() -> _Thing:
    return _Thing(
        body=[_polygon((-0.17, -0.14), (0.17, -0.14), (0.21, 0.48), (-0.21, 0.48))],
        part=[_polygon((-0.29, -0.14), (0, -0.56), (0.29, -0.14))],
        details=[(_DARK, _box(-0.05, -0.02, 0.05, 0.1))],
    )


def _person() -> _Thing:
    return _Thing(
        body=[
            _ellipse(0, -0.13, 0.3, 0.34),
            _polygon((-0.16, 0.05), (0.16, 0.05), (0.36, 0.2), (0.36, 0.5), (-0.36, 0.5), (-0.36, 0.2)),
        ],
        part=[
            _polygon((-0.25, 0.1), (-0.27, -0.2), (-0.19, -0.42), (0, -0.5), (0.19, -0.42), (0.27, -0.2), (0.25, 0.1),
                     (0.14, 0.1), (0.14, -0.2), (-0.14, -0.2), (-0.14, 0.1)),
        ],
        details=[
            (_SKIN, _ellipse(0, -0.11, 0.3, 0.36)),
            (_DARK, _ellipse(-0.065, -0.12, 0.045, 0.06)),
            (_DARK, _ellipse(0.065, -0.12, 0.045, 0.06)),
        ],
    )  # fmt: skip


def _cup() -> _Thing:
    return _Thing(
        body=[_polygon((-0.38, -0.3), (0.2, -0.3), (0.14, 0.42), (-0.32, 0.42))],
        part=[
            _polygon((0.12, -0.24), (0.36, -0.24), (0.48, -0.1), (0.48, 0.16), (0.34, 0.32), (0.1, 0.32), (0.1, 0.17),
                     (0.26, 0.17), (0.33, 0.1), (0.33, -0.04), (0.27, -0.1), (0.12, -0.1)),
        ],
        details=[(_DARK, _ellipse(-0.09, -0.3, 0.58, 0.1))],
        part_in_front=False,
    )  # fmt: skip


def _lamp() -> _Thing:
    return _Thing(
        body=[_ellipse(0, 0.24, 0.42, 0.4), _box(-0.06, -0.1, 0.06, 0.1), _box(-0.24, 0.42, 0.24, 0.5)],
        part=[_polygon((-0.22, -0.48), (0.22, -0.48), (0.4, -0.04), (-0.4, -0.04))],
    )


def _car() -> _Thing:
    return _Thing(
        body=[
            _polygon((-0.5, 0.02), (-0.3, 0.0), (-0.2, -0.24), (0.2, -0.24), (0.32, 0.0), (0.5, 0.04), (0.5, 0.3),
                     (-0.5, 0.3)),
        ],
        part=[_ellipse(-0.27, 0.28, 0.32, 0.32), _ellipse(0.27, 0.28, 0.32, 0.32)],
        details=[
            (_GLASS, _polygon((-0.16, -0.18), (-0.02, -0.18), (-0.02, 0.0), (-0.22, 0.0))),
            (_GLASS, _polygon((0.04, -0.18), (0.16, -0.18), (0.24, 0.0), (0.04, 0.0))),
        ],
    )  # fmt: skip


def _bottle() -> _Thing:
    return _Thing(
        body=[
            _polygon((-0.1, -0.26), (0.1, -0.26), (0.12, -0.16), (0.24, -0.02), (0.24, 0.48), (-0.24, 0.48),
                     (-0.24, -0.02), (-0.12, -0.16)),
        ],
        part=[_box(-0.17, -0.52, 0.17, -0.26)],
    )  # fmt: skip


def _cat() -> _Thing:
    return _Thing(
        body=[_ellipse(0, 0.28, 0.56, 0.46), _ellipse(0, -0.08, 0.52, 0.46)],
        part=[
            _polygon((-0.3, -0.5), (-0.03, -0.28), (-0.27, -0.08)),
            _polygon((0.3, -0.5), (0.03, -0.28), (0.27, -0.08)),
        ],
        details=[
            (_DARK, _ellipse(-0.1, -0.06, 0.07, 0.09)),
            (_DARK, _ellipse(0.1, -0.06, 0.07, 0.09)),
            (_DARK, _polygon((-0.04, 0.03), (0.04, 0.03), (0, 0.08))),
        ],
    )


_THINGS: dict[str, Callable[[], _Thing]] = {
    "house": _house,
    "tower": _tower,
    "person": _person,
    "cup": _cup,
    "lamp": _lamp,
    "car": _car,
    "bottle": _bottle,
    "cat": _cat,
}

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


# --- patterns


def _painted(look: Look, side: int, origin: tuple[float, float]) -> Image.Image:
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


# --- backgrounds


def _gradient(draw: ImageDraw.ImageDraw, side: int, top: Colour, bottom: Colour, until: float = 1.0) -> None:
    last = round(side * until)
    for row in range(last):
        share = row / max(last - 1, 1)
        draw.line(
            [(0, row), (side, row)],
            fill=tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True)),
        )


def _ground(draw: ImageDraw.ImageDraw, side: int, horizon: float, colour: Colour) -> None:
    draw.rectangle([0, side * horizon, side, side], fill=colour)


def _disc(draw: ImageDraw.ImageDraw, side: int, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse([side * (x - radius), side * (y - radius), side * (x + radius), side * (y + radius)], fill=colour)


def _beach(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    shore = rng.uniform(0.62, 0.72)
    _gradient(draw, side, (150, 212, 246), (206, 236, 250), shore - 0.16)
    _ground(draw, side, shore - 0.16, (46, 132, 190))
    _ground(draw, side, shore, (238, 216, 160))


def _snow(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _gradient(draw, side, (176, 190, 208), (214, 222, 232))
    peak, horizon = rng.uniform(0.1, 0.9), rng.uniform(0.58, 0.66)
    points = [(peak - 0.45, horizon), (peak, horizon - 0.34), (peak + 0.45, horizon)]
    draw.polygon([(side * x, side * y) for x, y in points], fill=(152, 166, 190))
    _ground(draw, side, horizon, (248, 250, 255))


def _night(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _gradient(draw, side, (12, 14, 44), (38, 40, 92))
    for _ in range(9):
        _disc(draw, side, rng.random(), rng.uniform(0, 0.6), 0.013, (240, 240, 220))
    _disc(draw, side, rng.choice((0.14, 0.86)), 0.16, 0.085, (250, 246, 208))
    _ground(draw, side, rng.uniform(0.76, 0.82), (22, 36, 40))


def _sunset(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    horizon = rng.uniform(0.66, 0.74)
    _gradient(draw, side, (116, 62, 128), (252, 150, 70), horizon)
    _disc(draw, side, rng.uniform(0.1, 0.9), horizon, 0.16, (255, 232, 130))
    _ground(draw, side, horizon, (82, 40, 62))


def _grass(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _gradient(draw, side, (92, 172, 244), (176, 220, 250))
    for _ in range(2):
        x, y = rng.random(), rng.uniform(0.08, 0.24)
        for shift in (-0.08, 0, 0.08):
            _disc(draw, side, x + shift, y, 0.06, (250, 252, 255))
    _ground(draw, side, rng.uniform(0.62, 0.74), (112, 190, 70))


def _city(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _gradient(draw, side, (188, 196, 204), (222, 224, 222))
    left = -0.05
    while left < 1:
        width, top, tone = rng.uniform(0.14, 0.22), rng.uniform(0.1, 0.45), rng.randint(92, 128)
        draw.rectangle([side * left, side * top, side * (left + width), side], fill=(tone, tone + 4, tone + 14))
        for row in range(4):
            for column in (0.25, 0.65):
                x, y = left + width * column, top + 0.06 + 0.12 * row
                draw.rectangle([side * x, side * y, side * (x + 0.035), side * (y + 0.05)], fill=(236, 222, 150))
        left += width + 0.02
    _ground(draw, side, rng.uniform(0.8, 0.86), (72, 74, 80))


def _room(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    draw.rectangle([0, 0, side, side], fill=(232, 214, 188))
    x, y = rng.choice((0.06, 0.66)), rng.uniform(0.06, 0.12)
    draw.rectangle([side * x, side * y, side * (x + 0.28), side * (y + 0.32)], fill=(110, 84, 62))
    for dx, dy in ((0.03, 0.03), (0.155, 0.03), (0.03, 0.175), (0.155, 0.175)):
        draw.rectangle(
            [side * (x + dx), side * (y + dy), side * (x + dx + 0.095), side * (y + dy + 0.115)], fill=(170, 216, 240)
        )
    _ground(draw, side, rng.uniform(0.72, 0.8), (162, 112, 72))


def _plain(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    tone = rng.randint(196, 216)
    draw.rectangle([0, 0, side, side], fill=(tone, tone + 2, tone + 6))


_BACKGROUND_PAINTERS = {
    "beach": _beach,
    "snow": _snow,
    "night": _night,
    "sunset": _sunset,
    "grass": _grass,
    "city": _city,
    "room": _room,
    "plain": _plain,
}
