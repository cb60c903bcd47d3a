"""Pictures that show a mask, boxes and words over an image."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..report.fitting import shortened
from .large_pictures import smaller_copy

TINT = (0.95, 0.1, 0.85)  # magenta, which few photographs hold
OPACITY = 0.5
# Okabe and Ito (2008): colours that most kinds of colour blindness tell apart.
BOX_COLOURS = ("#56B4E9", "#009E73", "#F0E442", "#0072B2", "#CC79A7")


def overlay(
    image: torch.Tensor,
    mask: torch.Tensor,
    boxes: torch.Tensor | None = None,
    labels: Sequence[str] | None = None,
) -> torch.Tensor:
    """The image with the mask tinted, and a labelled frame around each box.

    Args:
        image: (3, H, W) in [0, 1].
        mask: (H, W) in [0, 1]; 1 is tinted most.
        boxes: (N, 4) xyxy in pixels.
        labels: N texts, one for each box; without them the frames have none. In any script there is a font for; the
            middle is left out where one is wider than the picture.

    Returns:
        (3, H, W) float in [0, 1] on the CPU; smaller where the image is larger than `large_pictures.LONGEST`.

    Raises:
        ValueError: the mask has another size than the image, or the labels another number than the boxes.
    """
    if mask.shape != image.shape[-2:]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit image {tuple(image.shape)}")
    height, width = image.shape[-2:]
    image, mask = smaller_copy(image.detach()), smaller_copy(mask.detach()[None])[0]
    tinted = _tinted(image.float().cpu(), mask.float().cpu())
    if boxes is None or not len(boxes):
        return tinted
    texts = [""] * len(boxes) if labels is None else list(labels)
    if len(texts) != len(boxes):
        raise ValueError(f"{len(texts)} labels for {len(boxes)} boxes")
    picture = Image.fromarray((tinted.permute(1, 2, 0) * 255).round().byte().numpy())
    scale = boxes.new_tensor(picture.size) / boxes.new_tensor([width, height])
    _draw_boxes(picture, (boxes * scale.repeat(2)).tolist(), texts)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _tinted(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    tint = image.new_tensor(TINT)[:, None, None]
    return torch.lerp(image, tint.expand_as(image), OPACITY * mask.clamp(0, 1)).clamp(0, 1)


def _draw_boxes(picture: Image.Image, boxes: list[list[float]], texts: list[str]) -> None:
    draw = ImageDraw.Draw(picture)
    short_side = min(picture.size)
    line = max(1, round(short_side / 200))
    font = _font("".join(texts), max(10, round(short_side / 26)))
    colours = [BOX_COLOURS[number % len(BOX_COLOURS)] for number in range(len(boxes))]
    for box, colour in zip(boxes, colours, strict=True):
        draw.rectangle(box, outline=colour, width=line)
    # Labels come last, so that no frame crosses a word.
    for (left, top, _, _), colour, text in zip(boxes, colours, texts, strict=True):
        if text:
            fitting = shortened(text, font, picture.size[0] - 4 * line)
            _draw_label(draw, picture.size, left, top, fitting, font, colour, padding=2 * line)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if text.isascii():
        return ImageFont.load_default(size=size)
    # brings matplotlib, which knows where fonts are
    from ..report.fonts import log_missing, pillow_font

    log_missing(text)
    return pillow_font(text, size)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    left: float,
    top: float,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: str,
    padding: int,
) -> None:
    """A filled plate with the text on top of (left, top), pushed inwards where it would leave the picture."""
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    plate_width, plate_height = x1 - x0 + 2 * padding, y1 - y0 + 2 * padding
    left = max(0, min(left, size[0] - plate_width))
    top = max(0, min(top - plate_height, size[1] - plate_height))
    draw.rectangle((left, top, left + plate_width, top + plate_height), fill=colour)
    draw.text((left + padding - x0, top + padding - y0), text, font=font, fill="black")
