"""The same drawn with several values of several things: which picture goes where on a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TypeVar

from PIL import Image
from torch import Tensor

from .grid import labelled_grid

_Value = TypeVar("_Value")


def combinations(axes: Mapping[str, Sequence[_Value]]) -> list[dict[str, _Value]]:
    """All combinations of values, those of the last axis next to each other."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def comparison_sheet(
    axes: Mapping[str, Sequence[object]],
    columns: str,
    pictures: Sequence[Tensor],
    captions: Sequence[str] | None = None,
    tile: int = 256,
) -> Image.Image:
    """A grid of what was drawn: one axis from left to right, all others from top to bottom.

    Args:
        axes: values by name; an axis of one value has no label, but for the columns.
        columns: name of the axis that goes from left to right.
        pictures: (3, H, W) in [0, 1] of all `combinations`.
        captions: as many; None: none.
        tile: height and width of a picture's place.
    """
    down = {name: values for name, values in axes.items() if name != columns}
    places, lines = combinations(axes), combinations(down)
    rows = [[places.index({**line, columns: value}) for value in axes[columns]] for line in lines]
    labels = [", ".join(f"{name} {value}" for name, value in line.items() if len(down[name]) > 1) for line in lines]
    return labelled_grid(
        [[pictures[n] for n in row] for row in rows],
        labels,
        [f"{columns} {value}" for value in axes[columns]],
        [[captions[n] for n in row] for row in rows] if captions else None,
        tile,
    )
