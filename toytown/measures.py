"""What a picture has of the concept, of the component, of what it should not have, and of what was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .analyser import Finding
from .looks import Look
from .pairs import BACKGROUNDS, Pair, masked_pictures

SMALLEST_REGION = 20  # pixels; fewer is a thing that is not there
DIRECTIONS = np.random.default_rng(0).standard_normal((16, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
QUANTILES = np.linspace(0.02, 0.98, 25)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of one picture, each from 0 to 1.

    Attributes:
        concept, component: fidelity of the body and of the part, see `fidelity`.
        spill: mean of three shares: of the part that looks like the concept, of the body that looks like the component,
            and whether a background of the references stands where another was asked for.
        text: whether background and kind are as asked.
    """

    concept: float
    component: float
    spill: float
    text: float


def colour_distance(pixels: np.ndarray, wanted: np.ndarray) -> float:
    """Sliced Wasserstein distance (Bonneel et al. 2015) between two sets of colours (N, 3), in units of 0..255."""
    here, there = (np.quantile(some @ DIRECTIONS.T, QUANTILES, axis=0) for some in (pixels, wanted))
    return float(np.sqrt(3) * np.abs(here - there).mean())


def fidelity(pixels: np.ndarray, pattern: str, wanted: np.ndarray, look: Look) -> float:
    """Half for the colours and their shares (0 at a distance of 128), half for the right pattern."""
    if len(pixels) < SMALLEST_REGION:
        return 0.0
    colours = max(0.0, 1 - colour_distance(pixels, wanted) / 128)
    return 0.5 * colours + 0.5 * (pattern == look.pattern)


def look_share(pixels: np.ndarray, look: Look, other: Look) -> float:
    """Share of pixels (N, 3) that are near a colour of `look` and nearer to it than to those of `other`."""
    if len(pixels) == 0:
        return 0.0

    def nearest(some: Look) -> np.ndarray:
        colours = [some.colour] if some.pattern == "solid" else [some.colour, some.shade]
        return np.min([np.linalg.norm(pixels - np.array(c), axis=1) for c in colours], axis=0)

    return float(((nearest(look) < nearest(other)) & (nearest(look) < 70)).mean())


def scores(pair: Pair, background: str, picture: np.ndarray, found: Finding) -> Scores:
    """Of one picture (64, 64, 3) uint8 that was asked for before `background`."""
    colours = picture.astype(np.float32)
    body, part = colours[found.body], colours[found.part]
    wanted_body, wanted_part = wanted_colours(pair)
    from_references = found.background != background and found.background in BACKGROUNDS
    return Scores(
        concept=fidelity(body, found.body_look.pattern, wanted_body, pair.body),
        component=fidelity(part, found.part_look.pattern, wanted_part, pair.part),
        spill=(look_share(part, pair.body, pair.part) + look_share(body, pair.part, pair.body) + from_references) / 3,
        text=float(found.background == background and found.kind == pair.concept),
    )


def wanted_colours(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The references' pixels inside their masks, (N, 3) float32, of concept and component."""
    return tuple(
        np.concatenate([picture.pixels[mask] for picture, mask in pictures]).astype(np.float32)
        for pictures in masked_pictures(pair)
    )


def bootstrap_interval(values: Sequence[float], seed: int = 0, rounds: int = 10_000) -> tuple[float, float]:
    """95 percent interval of the mean over pairs (Efron 1979)."""
    values = np.asarray(values)
    chosen = np.random.default_rng(seed).integers(len(values), size=(rounds, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
