"""The sheet a demo leaves: what was learned from, what the model drew before, and what it draws now."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN, TITLE = 160, 10, 24, 34
INK, PAPER, MASK = (30, 34, 40), (255, 255, 255), (226, 30, 60)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of pictures (H, W, 3) uint8 under a title, each with a caption; all are shown equally high."""

    title: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str]


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture in which everything outside a mask (64, 64) bool is faded and the mask has a red edge.

    Returns:
        the picture at twice its size, so that the edge hides little.
    """
    large, inside = picture.repeat(2, 0).repeat(2, 1).astype(np.float32), mask.repeat(2, 0).repeat(2, 1)
    shown = np.where(inside[..., None], large, 0.35 * large + 0.65 * 255)
    padded = np.pad(inside, 1)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    shown[inside & ~neighbours] = MASK
    return shown.astype(np.uint8)


def sheet(rows: Sequence[Row]) -> Image.Image:
    """All rows below each other."""
    widths = [[round(TILE * picture.shape[1] / picture.shape[0]) for picture in row.pictures] for row in rows]
    line = TITLE + TILE + 26
    size = (2 * MARGIN + max(sum(row) + GAP * (len(row) - 1) for row in widths), 2 * MARGIN + len(rows) * line)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(18), ImageFont.load_default(13)
    for number, (row, row_widths) in enumerate(zip(rows, widths, strict=True)):
        left, top = MARGIN, MARGIN + number * line
        draw.text((left, top + 4), row.title, INK, large)
        for picture, caption, width in zip(row.pictures, row.captions, row_widths, strict=True):
            tile = Image.fromarray(picture).resize((width, TILE), Image.Resampling.NEAREST)
            image.paste(tile, (left, top + TITLE))
            draw.text((left, top + TITLE + TILE + 4), caption, INK, small)
            left += width + GAP
    return image
