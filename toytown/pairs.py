"""Concepts and components for tailoring: looks that no word names, each shown in three pictures with exact masks."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .looks import COLOURS, UNSEEN_COLOURS, Look
from .things import PARTS
from .world import Picture, Scene, render

REFERENCES = 3
BACKGROUNDS = ("room", "city", "grass")  # of the references; the pictures that are asked for stand before others
ASKED = ("beach", "snow", "night", "sunset")


@dataclasses.dataclass(frozen=True)
class Pair:
    """What is to be worn by what.

    Attributes:
        concept, component: kinds of things; the component is that kind's part.
        body: the look of the concept's body.
        part: the look of the component.
        seed: of the pictures.
    """

    concept: str
    component: str
    body: Look
    part: Look
    seed: int

    @property
    def name(self) -> str:
        """Folder name in the released program's convention."""
        return f"{self.concept}_{self.seed}+{PARTS[self.component]}_{self.seed}"

    @property
    def class_words(self) -> tuple[str, str]:
        """Of concept and component."""
        return self.concept, PARTS[self.component]

    def scenes(self) -> tuple[list[Scene], list[Scene]]:
        """What the pictures of concept and component show: the concept with an ordinary part, the component on an
        ordinary body."""
        plain_part, plain_body = Look(COLOURS["white"]), Look(COLOURS["gray"])
        concept = [
            Scene(self.concept, self.body, plain_part, place, 1000 * self.seed + n)
            for n, place in enumerate(BACKGROUNDS[:REFERENCES])
        ]
        component = [
            Scene(self.component, plain_body, self.part, place, 1000 * self.seed + 100 + n)
            for n, place in enumerate(BACKGROUNDS[:REFERENCES])
        ]
        return concept, component


def masked_pictures(pair: Pair) -> tuple[list[tuple[Picture, np.ndarray]], list[tuple[Picture, np.ndarray]]]:
    """Pictures of concept and component, each with the mask (64, 64) bool of what is to be learned."""
    concept, component = pair.scenes()
    return (
        [(picture, picture.body) for picture in map(render, concept)],
        [(picture, picture.part) for picture in map(render, component)],
    )


def write_folder(pair: Pair, root: pathlib.Path) -> pathlib.Path:
    """Write pictures and masks as *Load MagicTailor Pair* reads them."""
    folder = root / pair.name
    (folder / "masks").mkdir(parents=True)
    for number, pictures in enumerate(masked_pictures(pair)):
        for index, (picture, mask) in enumerate(pictures):
            name = f"{number}_{index}.png"
            Image.fromarray(picture.pixels).save(folder / name)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    return folder


def _look(colour: str, pattern: str = "solid") -> Look:
    return Look(UNSEEN_COLOURS[colour], pattern)


SHOWN = Pair("house", "tower", _look("coral", "zigzag"), _look("lime", "grid"), seed=0)

MEASURED: Sequence[Pair] = (
    Pair("house", "tower", _look("coral", "zigzag"), _look("navy", "solid"), seed=1),
    Pair("tower", "house", _look("lavender", "grid"), _look("olive", "rings"), seed=2),
    Pair("person", "person", _look("mint", "zigzag"), _look("maroon", "solid"), seed=3),
    Pair("cup", "cup", _look("navy", "rings"), _look("lime", "solid"), seed=4),
    Pair("lamp", "lamp", _look("tan", "solid"), _look("coral", "grid"), seed=5),
    Pair("car", "car", _look("lime", "grid"), _look("maroon", "rings"), seed=6),
    Pair("bottle", "bottle", _look("maroon", "zigzag"), _look("mint", "solid"), seed=7),
    Pair("cat", "cat", _look("olive", "rings"), _look("lavender", "solid"), seed=8),
)

TUNING: Sequence[Pair] = (
    Pair("house", "house", _look("tan", "rings"), _look("mint", "zigzag"), seed=11),
    Pair("cat", "cat", _look("coral", "solid"), _look("olive", "grid"), seed=12),
)
