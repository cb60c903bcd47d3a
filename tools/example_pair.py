"""Renders the example references: a coral brick house to learn, and another building whose chevron roof to borrow.

Writes a folder in the layout of the released MagicTailor program: `0_house_a{k}.jpg`, `1_roof_a{k}.jpg` and
`masks/<stem>.png` (white = learn). The house's mask leaves out its own roof.

Run as `python -m tools.example_pair FOLDER`.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from .scene import BODY, ROOF, Camera, Canvas, Landscape, draw_landscape, draw_pine, draw_tree

FOLDER_NAME = "house_a+roof_a"
JPEG_QUALITY = 90

CORAL, MORTAR, TRIM = (0.90, 0.43, 0.34), (0.80, 0.52, 0.44), (0.97, 0.95, 0.90)
GLASS, DOOR, SLATE = (0.34, 0.50, 0.62), (0.10, 0.47, 0.47), (0.33, 0.35, 0.40)
PLASTER, TIMBER, TEAL, GOLD = (0.93, 0.90, 0.82), (0.42, 0.29, 0.20), (0.02, 0.52, 0.56), (0.98, 0.74, 0.16)


@dataclasses.dataclass(frozen=True)
class Light:
    """Tint of the scene and brightness of the faces that look to the front and to the side."""

    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    front: float = 1.0
    side: float = 0.74


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture: where the camera stands, what the land is like, what grows there.

    Trees and pines, the farthest first: (across, down) of the foot and height, all fractions of the picture.
    """

    size: tuple[int, int]
    camera: Camera
    land: Landscape
    light: Light
    trees: tuple[tuple[float, float, float], ...] = ()
    pines: tuple[tuple[float, float, float], ...] = ()
    leaves: tuple[float, float, float] = (0.30, 0.52, 0.22)
    snow: bool = False


@dataclasses.dataclass(frozen=True)
class Face:
    """A flat side of a building: corner, the directions of u (along) and v (up), and how brightly it is lit."""

    canvas: Canvas
    corner: tuple[float, float, float]
    along: tuple[float, float, float]
    up: tuple[float, float, float]
    brightness: np.ndarray

    def polygon(self, points, colour, label: int) -> None:
        """Fill a convex polygon of (u, v) points."""
        u, v = np.asarray(points, dtype=np.float64).T[..., None]
        world = np.array(self.corner) + u * np.array(self.along) + v * np.array(self.up)
        self.canvas.world(world, np.array(colour) * self.brightness, label)

    def rectangle(self, u0: float, v0: float, u1: float, v1: float, colour, label: int = BODY) -> None:
        self.polygon([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], colour, label)

    def bricks(self, width: float, height: float, rng: np.random.Generator, gable: float = 0.0) -> None:
        """Brick courses over a wall, and over the triangle of height `gable` above it."""
        self.rectangle(0, 0, width, height, MORTAR)
        self.polygon([(0, height), (width, height), (width / 2, height + max(gable, 1e-6))], MORTAR, BODY)
        brick, course, joint = 0.36, 0.15, 0.022
        for row in range(int((height + gable) / course) + 1):
            low, top = row * course, min((row + 1) * course - joint, height + gable)
            inset = max(0.0, (top - height) / gable * width / 2) if gable else 0.0
            edges = np.arange(-brick * (row % 2) / 2, width, brick)
            for left in edges:
                u0, u1 = max(left, inset), min(left + brick - joint, width - inset)
                if u1 > u0 and top > low and (gable or top <= height):
                    self.rectangle(u0, low, u1, top, np.array(CORAL) * rng.normal(1, 0.045))

    def window(self, u: float, v: float, width: float, height: float, panes: int = 2) -> None:
        """A framed window with its lower left corner at (u, v), panes wide and two high, and a sill."""
        frame = 0.09
        self.rectangle(u - frame, v - frame, u + width + frame, v + height + frame, TRIM)
        bar = 0.05
        for column in range(panes):
            for row in range(2):
                u0 = u + column * width / panes + bar / 2
                v0 = v + row * height / 2 + bar / 2
                u1, v1 = u0 + width / panes - bar, v0 + height / 2 - bar
                self.rectangle(u0, v0, u1, v1, GLASS)
                self.polygon([(u0, v0), (u0 + (u1 - u0) * 0.55, v1), (u0, v1)], np.array(GLASS) * 1.35, BODY)
        self.rectangle(u - 0.16, v - 0.18, u + width + 0.16, v - frame, np.array(TRIM) * 0.86)


def draw_house(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    """The concept: coral bricks, white windows, a teal door, a round window in the gable, a plain slate roof."""
    width, depth, wall, gable, eave = 4.2, 5.4, 2.9, 1.9, 0.38
    half, tint = width / 2, np.array(light.tint)
    seen = np.sign(canvas.camera.yaw)  # which side wall the camera sees: +1 is the left one
    near, ridge = -seen * half, wall + gable
    canvas.shade([(-half - 2.6, 0, -0.2), (half, 0, -0.2), (half, 0, depth), (-half - 3.4, 0, depth)], 0.45, 0.012)

    slope = gable / half
    low, out = wall - slope * eave, half + eave
    front, back = -eave, depth + eave
    far_plane = [(seen * out, low, front), (0, ridge, front), (0, ridge, back), (seen * out, low, back)]
    canvas.world(far_plane, np.array(SLATE) * 0.5 * tint, ROOF)

    side = Face(canvas, (near, 0, 0), (0, 0, 1), (0, 1, 0), light.side * tint)
    side.bricks(depth, wall, rng)
    for u in (0.75, 3.35):
        side.window(u, 0.95, 1.2, 1.25)
    face = Face(canvas, (-half, 0, 0), (1, 0, 0), (0, 1, 0), light.front * tint)
    face.bricks(width, wall, rng, gable)
    face.window(0.42, 0.95, 0.95, 1.3)
    face.window(2.83, 0.95, 0.95, 1.3)
    face.rectangle(1.66, 0, 2.54, 2.12, TRIM)
    face.rectangle(1.74, 0, 2.46, 2.04, DOOR)
    for v in (0.2, 1.1):
        face.rectangle(1.86, v, 2.34, v + 0.72, np.array(DOOR) * 1.25)
    face.rectangle(1.5, 0, 2.7, 0.12, np.array(TRIM) * 0.8)
    for radius, colour in ((0.46, TRIM), (0.36, GLASS)):
        angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        circle = np.stack([half + radius * np.cos(angles), wall + 0.62 + radius * np.sin(angles)], 1)
        face.polygon(circle, colour, BODY)
    face.rectangle(half - 0.02, wall + 0.28, half + 0.02, wall + 0.96, TRIM)

    plane = [(-seen * out, low, front), (0, ridge, front), (0, ridge, back), (-seen * out, low, back)]
    canvas.world(plane, np.array(SLATE) * 1.05 * tint, ROOF)
    thick = 0.17  # barge boards along the gable close the roof towards the front
    for x in (-out, out):
        board = [(x, low, front), (0, ridge, front), (0, ridge - 1.4 * thick, front), (x, low - thick, front)]
        canvas.world(board, np.array(SLATE) * 0.72 * tint, ROOF)
    gutter = [(-seen * out, low, front), (-seen * out, low, back)]
    canvas.world(gutter + [(x, y - 0.09, z) for x, y, z in reversed(gutter)], np.array(SLATE) * 0.6 * tint, ROOF)


def draw_pavilion(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    """The component's building: pale timbered walls under a steep roof of round tiles in teal and gold chevrons."""
    half, wall, tint = 1.9, 2.5, np.array(light.tint)
    seen = np.sign(canvas.camera.yaw)
    near = -seen * half
    shadow = [(-half - 2.2, 0, -half), (half, 0, -half), (half, 0, half), (-half - 2.8, 0, half)]
    canvas.shade(shadow, 0.45, 0.012)
    sides = (
        Face(canvas, (near, 0, -half), (0, 0, 1), (0, 1, 0), light.side * tint),
        Face(canvas, (-half, 0, -half), (1, 0, 0), (0, 1, 0), light.front * tint),
    )
    for face in sides:
        face.rectangle(0, 0, 2 * half, wall, PLASTER)
        for u in (0.0, 1.2, 2.48, 3.66):
            face.rectangle(u, 0, u + 0.14, wall, TIMBER)
        for v in (0.0, 1.72, wall - 0.16):
            face.rectangle(0, v, 2 * half, v + 0.14, TIMBER)
        face.window(0.36, 0.62, 0.60, 0.82)
        face.window(2.84, 0.62, 0.60, 0.82)
        face.rectangle(1.52, 0.14, 2.30, 1.72, np.array(TIMBER) * 1.3)
        face.rectangle(1.60, 0.14, 2.22, 1.62, np.array(TIMBER) * 0.8)

    eave, low, height = half + 0.62, wall - 0.22, 3.1
    for face in ("side", "front"):
        brightness = (light.side if face == "side" else light.front) * tint
        _tile_slope(canvas, face == "side", seen, (eave, low, height), brightness, rng)
    apex = canvas.camera.project([(0, low + height - 0.06, 0), (0, low + height + 0.36, 0)], canvas.size)
    radius = (apex[0, 1] - apex[1, 1]) * 0.36
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ball = apex.mean(0) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas.fill(ball, np.array(GOLD) * tint, ROOF)
    canvas.fill((ball - apex.mean(0)) * 0.45 + apex.mean(0) + radius * np.array([-0.25, -0.3]), (1, 0.93, 0.66), ROOF)


def _tile_slope(canvas: Canvas, turned: bool, seen: float, shape, brightness: np.ndarray, rng) -> None:
    """One slope of the pyramid roof, tiled from the eave up so that every row covers the joint below it."""
    eave, low, height = shape
    rows, columns = 13, 14

    def point(across: float, up: float) -> tuple[float, float, float]:
        """A place on the slope: across in [-1, 1] from edge to edge, up in [0, 1] from eave to apex; it flares out."""
        reach, y = eave * (1 - up), low + height * up**1.25
        return (-seen * reach, y, across * reach) if turned else (across * reach, y, -reach)

    edge = [point(-1, 0), point(1, 0), *[(x, y - 0.14, z) for x, y, z in (point(1, 0), point(-1, 0))]]
    canvas.world(edge, np.array(GOLD) * 0.72 * brightness, ROOF)
    for row in range(rows):
        low_edge, high_edge = row / rows, min((row + 1.25) / rows, 1.0)
        whole = [point(-1, low_edge), point(1, low_edge), point(1, high_edge), point(-1, high_edge)]
        canvas.world(whole, np.array(TEAL) * 0.45 * brightness, ROOF)
        for column in range(columns):
            middle = (2 * column + 1) / columns - 1
            chevron = (row + abs(2 * column + 1 - columns) // 2) % 4
            colour = np.array(TEAL if chevron < 2 else GOLD) * rng.normal(1, 0.05)
            half = 0.94 / columns
            round_end = [(middle + half * np.cos(a), 0.035 * (1 + np.sin(a))) for a in np.linspace(np.pi, 2 * np.pi, 9)]
            tile = [point(u, min(low_edge + v, 1.0)) for u, v in round_end]
            tile += [point(middle + half, high_edge), point(middle - half, high_edge)]
            canvas.world(tile, colour * brightness, ROOF)


MEADOW = Landscape(
    sky=((0.27, 0.55, 0.88), (0.80, 0.91, 0.98)),
    ground=((0.52, 0.70, 0.30), (0.27, 0.50, 0.18)),
    hills=((0.55, 0.68, 0.74), (0.42, 0.62, 0.46)),
    clouds=0.95,
)
BEACH = Landscape(
    sky=((0.42, 0.38, 0.66), (1.0, 0.72, 0.48)),
    ground=((0.93, 0.78, 0.58), (0.80, 0.62, 0.44)),
    sun=(0.16, 0.50, 0.045),
    clouds=0.55,
    cloud_colour=(1.0, 0.66, 0.60),
    water=(0.36, 0.50, 0.66),
)
SNOW = Landscape(
    sky=((0.55, 0.70, 0.86), (0.90, 0.94, 0.98)),
    ground=((0.93, 0.95, 0.99), (0.82, 0.88, 0.96)),
    hills=((0.74, 0.82, 0.91), (0.84, 0.89, 0.95)),
    clouds=0.5,
)
AUTUMN = Landscape(
    sky=((0.50, 0.68, 0.86), (0.96, 0.92, 0.82)),
    ground=((0.74, 0.62, 0.30), (0.58, 0.42, 0.20)),
    hills=((0.66, 0.60, 0.58), (0.70, 0.50, 0.32)),
    clouds=0.7,
)
DUSK = Landscape(
    sky=((0.07, 0.09, 0.26), (0.58, 0.38, 0.55)),
    ground=((0.24, 0.30, 0.32), (0.14, 0.20, 0.22)),
    hills=((0.28, 0.24, 0.42), (0.18, 0.20, 0.32)),
    sun=(0.80, 0.14, 0.030),
)
LAKE = Landscape(
    sky=((0.22, 0.52, 0.82), (0.88, 0.95, 0.97)),
    ground=((0.58, 0.72, 0.36), (0.34, 0.56, 0.24)),
    hills=((0.52, 0.64, 0.72), (0.34, 0.52, 0.44)),
    clouds=0.8,
    water=(0.30, 0.56, 0.70),
)

HOUSE_SHOTS = (
    Shot(
        (640, 640),
        Camera(-26, 11.5, 1.7, 1.42, 0.70, 0.50),
        MEADOW,
        Light(),
        trees=((0.10, 0.725, 0.34), (0.86, 0.715, 0.24), (0.97, 0.75, 0.36)),
    ),
    Shot((720, 560), Camera(33, 12.0, 1.5, 1.55, 0.71, 0.50), BEACH, Light((1.06, 0.92, 0.82), 1.0, 0.80)),
    Shot(
        (512, 700),
        Camera(-38, 13.5, 2.1, 1.18, 0.62, 0.42),
        SNOW,
        Light((0.93, 0.97, 1.05), 0.92, 0.82),
        pines=((0.30, 0.63, 0.22), (0.80, 0.635, 0.26), (0.08, 0.66, 0.38), (0.96, 0.67, 0.42)),
        snow=True,
    ),
)
ROOF_SHOTS = (
    Shot(
        (640, 640),
        Camera(30, 10.6, 1.9, 1.12, 0.74),
        AUTUMN,
        Light((1.03, 0.98, 0.92)),
        trees=((0.90, 0.76, 0.26), (0.06, 0.80, 0.42)),
        leaves=(0.86, 0.46, 0.16),
    ),
    Shot(
        (560, 720),
        Camera(-24, 11.0, 1.6, 0.98, 0.74, 0.50),
        DUSK,
        Light((0.80, 0.76, 0.92), 0.90, 0.66),
        pines=((0.24, 0.75, 0.20), (0.07, 0.77, 0.34), (0.95, 0.78, 0.40)),
    ),
    Shot(
        (700, 540),
        Camera(40, 10.8, 2.2, 1.18, 0.67, 0.52),
        LAKE,
        Light(),
        trees=((0.93, 0.86, 0.42), (0.16, 0.82, 0.28)),
    ),
)


def render(shot: Shot, building: Callable[[Canvas, Light, np.random.Generator], None], seed: int) -> Canvas:
    """Draw one picture: land, what grows behind the building, the building."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(shot.size, shot.camera)
    draw_landscape(canvas, shot.land, rng)
    for across, down, height in shot.trees:
        draw_tree(canvas, (across, down), height, np.array(shot.leaves) * shot.light.tint, rng)
    for across, down, height in shot.pines:
        draw_pine(canvas, (across, down), height, np.array([0.16, 0.36, 0.28]) * shot.light.tint, shot.snow)
    building(canvas, shot.light, rng)
    return canvas


def write_pair(folder: str | pathlib.Path) -> pathlib.Path:
    """Render all pictures and masks into `folder` (made when missing) and return it."""
    folder = pathlib.Path(folder)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    references = (("0_house_a", HOUSE_SHOTS, draw_house, BODY), ("1_roof_a", ROOF_SHOTS, draw_pavilion, ROOF))
    for name, shots, building, label in references:
        for index, shot in enumerate(shots):
            canvas = render(shot, building, seed=index)
            picture = canvas.picture(np.random.default_rng(100 + index))
            picture.save(folder / f"{name}{index}.jpg", quality=JPEG_QUALITY)
            canvas.mask(label).save(folder / "masks" / f"{name}{index}.png", optimize=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help=f"where to write, for example example_pairs/{FOLDER_NAME}")
    print(write_pair(parser.parse_args().folder))


if __name__ == "__main__":
    main()
