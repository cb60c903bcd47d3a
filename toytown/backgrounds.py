"""What things stand before."""

from __future__ import annotations

import random

from PIL import ImageDraw

from .looks import Colour

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


PAINTERS = {
    "beach": _beach,
    "snow": _snow,
    "night": _night,
    "sunset": _sunset,
    "grass": _grass,
    "city": _city,
    "room": _room,
    "plain": _plain,
}
