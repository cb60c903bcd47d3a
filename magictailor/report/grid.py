"""Pictures in a labelled grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .fitting import shortened
from .fonts import pillow_font

GAP, TEXT = 6, 14  # pixels
PAPER, INK, LACKING = (255, 255, 255), (30, 34, 40), (235, 235, 235)


def labelled_grid(
    pictures: Sequence[Sequence[Tensor | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    tile: int = 192,
) -> Image.Image:
    """A table of pictures with a label for each row and column, and lines of text below each picture.

    Args:
        pictures: rows of (3, H, W) in [0, 1]; None leaves a place empty.
        rows, columns: labels; of what is too long for its place the middle is left out.
        captions: as many as pictures, of any number of lines; None: none.
        tile: height and width of a picture's place.
    """
    words = "".join([*rows, *columns, *(text for texts in captions or () for text in texts)]).replace("\n", "")
    font = pillow_font(words or "a", TEXT)
    line = round(1.5 * TEXT)
    margin = min(2 * tile, max((round(font.getlength(label)) for label in rows), default=0)) + 2 * GAP
    below = max((text.count("\n") + 1 for texts in captions or () for text in texts), default=0)
    step = (tile + GAP, tile + GAP + below * line)
    size = (margin + len(columns) * step[0], line + 2 * GAP + len(rows) * step[1])
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, width: int) -> None:
        draw.text((x, y), shortened(text, font, width), INK, font)

    for column, label in enumerate(columns):
        write(margin + column * step[0], GAP, label, tile)
    for row, label in enumerate(rows):
        top = line + 2 * GAP + row * step[1]
        write(GAP, top, label, margin - 2 * GAP)
        for column, picture in enumerate(pictures[row]):
            left = margin + column * step[0]
            if picture is None:
                draw.rectangle((left, top, left + tile - 1, top + tile - 1), LACKING)
            else:
                shown = _fitted(picture, tile)
                sheet.paste(shown, (left + (tile - shown.width) // 2, top + (tile - shown.height) // 2))
            if captions:
                for number, text in enumerate(captions[row][column].split("\n")):
                    write(left, top + tile + 2 + number * line, text, tile)
    return sheet


def _fitted(picture: Tensor, side: int) -> Image.Image:
    height, width = picture.shape[-2:]
    factor = side / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    # what is enlarged keeps its pixels
    how = {"mode": "bicubic", "antialias": True} if factor < 1 else {"mode": "nearest"}
    scaled = F.interpolate(picture[None].float(), size, **how)[0]
    return Image.fromarray((scaled.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy())
