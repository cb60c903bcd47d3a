"""A small renderer for pictures with exact masks: a camera, a canvas of flat convex polygons, and landscapes.

Everything is drawn at SUPERSAMPLING times the size and averaged. Each pixel also carries the label of what it shows,
so a mask is read off and never estimated. Polygons are filled with numpy, so masks do not depend on a drawing library.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

SUPERSAMPLING = 3
BACKGROUND, BODY, ROOF = 0, 1, 2
TRUNK = (0.32, 0.23, 0.17)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A level pinhole camera. World: x right, y up, z away; angles in degrees, horizon and focal in picture heights."""

    yaw: float
    distance: float
    height: float
    focal: float
    horizon: float
    centre: float = 0.5

    def project(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """World points (n, 3) to pixels (n, 2) of a picture of `size` (width, height)."""
        width, height = size
        angle = np.radians(self.yaw)
        x, y, z = np.asarray(points, dtype=np.float64).T
        across = np.cos(angle) * x - np.sin(angle) * z
        depth = np.sin(angle) * x + np.cos(angle) * z + self.distance
        scale = self.focal * height / depth
        return np.stack([self.centre * width + scale * across, self.horizon * height + scale * (self.height - y)], 1)


class Canvas:
    """A picture under construction: `colour` (h, w, 3) in [0, 1] and `label` (h, w), both supersampled."""

    def __init__(self, size: tuple[int, int], camera: Camera):
        self.size = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
        self.camera = camera
        self.colour = np.zeros((self.size[1], self.size[0], 3), dtype=np.float32)
        self.label = np.full((self.size[1], self.size[0]), BACKGROUND, dtype=np.uint8)

    def world(self, points, colour, label: int) -> None:
        """Fill a convex polygon given by world points."""
        self.fill(self.camera.project(points, self.size), colour, label)

    def fill(self, pixels: np.ndarray, colour, label: int) -> None:
        """Fill a convex polygon given by supersampled pixels (n, 2)."""
        window, inside = _inside(pixels, self.size)
        self.colour[window][inside] = np.clip(colour, 0, 1)
        self.label[window][inside] = label

    def shade(self, points, strength: float, blur: float) -> None:
        """Darken a convex polygon of world points softly: a shadow. Leaves the labels alone."""
        window, inside = _inside(self.camera.project(points, self.size), self.size)
        mask = np.zeros(self.label.shape, dtype=np.uint8)
        mask[window] = inside * 255
        soft = Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur * self.size[1]))
        self.colour *= 1 - strength * (np.asarray(soft, dtype=np.float32) / 255)[..., None]

    def picture(self, rng: np.random.Generator) -> Image.Image:
        """The finished picture with a little grain, as from a camera."""
        colour = _average(self.colour)
        height, width = colour.shape[:2]
        row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        vignette = 1 - 0.10 * (row**2 + column**2)
        colour = colour * vignette[..., None] + rng.normal(0, 0.008, colour.shape)
        return Image.fromarray((np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8))

    def mask(self, label: int) -> Image.Image:
        """White where at least half of a pixel shows `label`."""
        return Image.fromarray(np.where(_average(self.label == label) >= 0.5, 255, 0).astype(np.uint8))


def _inside(pixels: np.ndarray, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window around a convex polygon, and which of its pixel centres lie inside."""
    left, top = np.maximum(np.floor(pixels.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(pixels.max(0)).astype(int), size)
    window = (slice(top, max(top, bottom)), slice(left, max(left, right)))
    y, x = np.ogrid[window]
    x, y = x + 0.5, y + 0.5
    ahead = np.roll(pixels, -1, 0)
    turn = np.sum(pixels[:, 0] * ahead[:, 1] - ahead[:, 0] * pixels[:, 1])
    inside = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(pixels, ahead, strict=True):
        inside &= np.sign(turn) * ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) >= 0
    return window, inside


def _average(values: np.ndarray) -> np.ndarray:
    height, width = values.shape[0] // SUPERSAMPLING, values.shape[1] // SUPERSAMPLING
    return values.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, -1).mean((1, 3)).squeeze()


# --- landscapes


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Colours in [0, 1] from the top of the sky to the foreground, and what stands in it."""

    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    ground: tuple[tuple[float, float, float], tuple[float, float, float]]
    hills: tuple[tuple[float, float, float], ...] = ()
    clouds: float = 0.0
    cloud_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sun: tuple[float, float, float] | None = None  # across, down (fractions of the picture), radius
    water: tuple[float, float, float] | None = None


def draw_landscape(canvas: Canvas, land: Landscape, rng: np.random.Generator) -> None:
    """Fill the whole canvas with sky, hills and ground; the horizon is the camera's."""
    width, height = canvas.size
    horizon = int(canvas.camera.horizon * height)
    row = np.arange(height)[:, None] / height
    down = np.clip(row * height / horizon, 0, 1)[..., None]
    canvas.colour[:] = (1 - down) * np.array(land.sky[0]) + down * np.array(land.sky[1])
    if land.sun:
        _add_sun(canvas, land.sun)
    if land.clouds:
        cover = np.clip(smooth_noise(rng, canvas.size, (9, 3)) * 3.2 - 1.35, 0, 1) * (1 - 0.7 * row) * land.clouds
        canvas.colour += cover[..., None] * (np.array(land.cloud_colour) - canvas.colour)
    column = np.arange(width) / width
    for distance, colour in enumerate(land.hills):
        phase = rng.uniform(0, 6, 3)
        ridge = sum(np.sin(column * f * (3 + distance) + p) / f for f, p in zip((1, 2.3, 5.1), phase, strict=True))
        crest = horizon - height * (0.13 - 0.045 * distance + 0.05 * ridge)
        canvas.colour[(np.arange(height)[:, None] > crest) & (np.arange(height)[:, None] < horizon)] = colour
    near = np.clip((np.arange(horizon, height) - horizon) / (height - horizon), 0, 1)[:, None, None] ** 0.6
    ground = (1 - near) * np.array(land.ground[0]) + near * np.array(land.ground[1])
    texture = smooth_noise(rng, (width, height - horizon), (90, 60)) - 0.5
    canvas.colour[horizon:] = ground * (1 + 0.28 * texture[..., None] * near)
    if land.water:
        shore = int(0.10 * height)
        waves = smooth_noise(rng, (width, shore), (14, 40)) - 0.5
        canvas.colour[horizon : horizon + shore] = np.array(land.water) * (1 + 0.25 * waves[..., None])


def _add_sun(canvas: Canvas, sun: tuple[float, float, float]) -> None:
    across, down, radius = sun
    width, height = canvas.size
    y, x = np.ogrid[:height, :width]
    away = np.hypot(x - across * width, y - down * height) / height
    glow = np.clip(1.0 * (away < radius) + 0.55 * np.exp(-((away / (3.5 * radius)) ** 2)), 0, 1)[..., None]
    canvas.colour += glow * (np.array([1.0, 0.95, 0.78]) - canvas.colour)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth random values in [0, 1], (height, width) for `size` (width, height), with `cells` (down, across)."""
    total, weight = np.zeros((size[1], size[0]), dtype=np.float32), 0.0
    for octave in (1, 2, 4):
        coarse = rng.random((cells[0] * octave, cells[1] * octave), dtype=np.float32)
        total += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) / octave
        weight += 1 / octave
    return np.clip(total / weight, 0, 1)


def draw_tree(canvas: Canvas, foot: tuple[float, float], height: float, leaves, rng: np.random.Generator) -> None:
    """A round tree of overlapping discs; `foot` (across, down) and `height` are fractions of the picture."""
    foot, scale = np.array(foot) * canvas.size, height * canvas.size[1]
    canvas.fill(np.array([(-0.035, 0), (0.035, 0), (0.025, -0.5), (-0.025, -0.5)]) * scale + foot, TRUNK, BACKGROUND)
    for _ in range(70):
        angle, away = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        dx, dy = 0.27 * away * np.cos(angle), 0.26 * away * np.sin(angle)
        light = 0.84 - 0.9 * dy + rng.normal(0, 0.06)
        disc = _circle(foot + np.array([dx, dy - 0.70]) * scale, rng.uniform(0.045, 0.09) * scale)
        canvas.fill(disc, np.array(leaves) * light, BACKGROUND)


def draw_pine(canvas: Canvas, foot: tuple[float, float], height: float, needles, snow: bool = False) -> None:
    """A conifer of stacked triangles; `foot` (across, down) and `height` are fractions of the picture."""
    foot, scale = np.array(foot) * canvas.size, height * canvas.size[1]
    canvas.fill(np.array([(-0.03, 0), (0.03, 0), (0.03, -0.2), (-0.03, -0.2)]) * scale + foot, TRUNK, BACKGROUND)
    for tier in range(5):
        low, half = 0.12 + 0.15 * tier, 0.21 - 0.034 * tier
        tip = low + 0.30
        light = 0.8 + 0.08 * tier
        triangle = np.array([(-half, -low), (half, -low), (0, -tip)]) * scale + foot
        canvas.fill(triangle, np.array(needles) * light, BACKGROUND)
        if snow:
            cap = np.array([(-half * 0.62, -low - 0.115), (half * 0.3, -low - 0.15), (0, -tip)]) * scale + foot
            canvas.fill(cap, (0.95, 0.97, 1.0), BACKGROUND)


def _circle(centre: np.ndarray, radius: float, corners: int = 18) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
