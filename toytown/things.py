"""The shapes of things and their parts, in a box of -0.5..0.5, y downwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from .looks import Colour

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

Shape = Sequence[tuple[float, float]]  # the corners of a polygon


@dataclasses.dataclass(frozen=True)
class Thing:
    """Body, part and details (colour, shape) of a thing; of body and part the one in front covers the other."""

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


def _house() -> Thing:
    return Thing(
        body=[_box(-0.38, -0.04, 0.38, 0.45)],
        part=[_polygon((-0.48, -0.04), (-0.3, -0.42), (0.3, -0.42), (0.48, -0.04))],
        details=[(_DOOR, _box(-0.07, 0.2, 0.07, 0.45)), (_GLASS, _box(0.17, 0.1, 0.3, 0.24))],
    )


def _tower() -> Thing:
    return Thing(
        body=[_polygon((-0.17, -0.14), (0.17, -0.14), (0.21, 0.48), (-0.21, 0.48))],
        part=[_polygon((-0.29, -0.14), (0, -0.56), (0.29, -0.14))],
        details=[(_DARK, _box(-0.05, -0.02, 0.05, 0.1))],
    )


def _person() -> Thing:
    return Thing(
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


def _cup() -> Thing:
    return Thing(
        body=[_polygon((-0.38, -0.3), (0.2, -0.3), (0.14, 0.42), (-0.32, 0.42))],
        part=[
            _polygon((0.12, -0.24), (0.36, -0.24), (0.48, -0.1), (0.48, 0.16), (0.34, 0.32), (0.1, 0.32), (0.1, 0.17),
                     (0.26, 0.17), (0.33, 0.1), (0.33, -0.04), (0.27, -0.1), (0.12, -0.1)),
        ],
        details=[(_DARK, _ellipse(-0.09, -0.3, 0.58, 0.1))],
        part_in_front=False,
    )  # fmt: skip


def _lamp() -> Thing:
    return Thing(
        body=[_ellipse(0, 0.24, 0.42, 0.4), _box(-0.06, -0.1, 0.06, 0.1), _box(-0.24, 0.42, 0.24, 0.5)],
        part=[_polygon((-0.22, -0.48), (0.22, -0.48), (0.4, -0.04), (-0.4, -0.04))],
    )


def _car() -> Thing:
    return Thing(
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


def _bottle() -> Thing:
    return Thing(
        body=[
            _polygon((-0.1, -0.26), (0.1, -0.26), (0.12, -0.16), (0.24, -0.02), (0.24, 0.48), (-0.24, 0.48),
                     (-0.24, -0.02), (-0.12, -0.16)),
        ],
        part=[_box(-0.17, -0.52, 0.17, -0.26)],
    )  # fmt: skip


def _cat() -> Thing:
    return Thing(
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


THINGS: dict[str, Callable[[], Thing]] = {
    "house": _house,
    "tower": _tower,
    "person": _person,
    "cup": _cup,
    "lamp": _lamp,
    "car": _car,
    "bottle": _bottle,
    "cat": _cat,
}
