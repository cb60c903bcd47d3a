"""Small pictures of what a tailoring was learned from, with their masks, which its file can carry.

What is drawn can then be compared with them where the pictures themselves are not at hand.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..reference import Reference

MOST_CHARACTERS = 64_000  # of all pictures and masks together, as base64
MOST_PICTURES = 4  # of each reference
SIDES = (192, 160, 128, 96, 64)  # in pixels, the largest that fits is taken


@dataclass(frozen=True)
class SmallReference:
    """One concept or component, small.

    Attributes:
        images: JPEG files, square.
        masks: as many PNG files in grey, white where it was learned.
    """

    images: tuple[bytes, ...]
    masks: tuple[bytes, ...]

    def opened(self, class_word: str) -> Reference:
        """The same as pixels.

        Raises:
            InputError: a picture or mask is damaged, or larger than any that is written; names "tailoring".
        """
        try:
            images = tuple(_pixels(image, "JPEG", "RGB").permute(2, 0, 1) for image in self.images)
            masks = tuple(_pixels(mask, "PNG", "L") for mask in self.masks)
            return Reference(class_word, images, masks)
        # decoders raise errors of any kind on damaged files
        except Exception as error:
            raise InputError(
                "tailoring", f"the pictures of {class_word} that it carries are damaged ({error})"
            ) from error


def small_references(references: Sequence[Reference]) -> tuple[SmallReference, ...]:
    """Small copies of references, cropped around what is learned as training does, of at most `MOST_CHARACTERS`.

    Returns:
        as many as there are references, with fewer pictures where many do not fit; none if nothing is left of a mask
        when it is small, or if there are dozens of references.
    """
    for count in (MOST_PICTURES, MOST_PICTURES // 2, 1):
        for side in SIDES:
            small = tuple(_small(reference, count, side) for reference in references)
            if not all(one.images for one in small):
                return ()
            if _characters(packed(small)) <= MOST_CHARACTERS:
                return small
    return ()


def packed(references: Sequence[SmallReference]) -> list[Any]:
    """As a value of JSON: for each reference its pictures, each with its mask."""
    return [
        [[_text(image), _text(mask)] for image, mask in zip(one.images, one.masks, strict=True)] for one in references
    ]


def unpacked(value: Any, count: int) -> tuple[SmallReference, ...]:
    """What `packed` gave, or none at all.

    Args:
        value: of JSON, from anywhere.
        count: of the references.

    Raises:
        ValueError: it is something else, larger than any that is written, or of another number of references.
    """
    if value == []:
        return ()
    whole = isinstance(value, list) and len(value) == count
    if not whole or not all(isinstance(one, list) and 0 < len(one) <= MOST_PICTURES for one in value):
        raise ValueError("they are not those of its references")
    pairs = [pair for one in value for pair in one]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair) for pair in pairs):
        raise ValueError("a picture has no mask")
    if _characters(value) > MOST_CHARACTERS:
        raise ValueError(f"they have more than {MOST_CHARACTERS} characters")
    return tuple(
        SmallReference(*(tuple(base64.b64decode(pair[part], validate=True) for pair in one) for part in (0, 1)))
        for one in value
    )


def _small(reference: Reference, count: int, side: int) -> SmallReference:
    # with torchvision, which reading does without
    from ..pictures import crop_around, cut

    images, masks = [], []
    for image, mask in zip(reference.images[:count], reference.masks[:count], strict=True):
        crop = crop_around(mask)
        small_mask = cut(mask[None], crop, min(side, crop.side), outside="zero")[0]
        if (small_mask > 0.5).any():
            images.append(_file(cut(image, crop, min(side, crop.side), outside="replicate"), "JPEG"))
            masks.append(_file(small_mask[None], "PNG"))
    return SmallReference(tuple(images), tuple(masks))


def _file(picture: Tensor, kind: str) -> bytes:
    """A picture (C, H, W) in [0, 1], grey or RGB, as a file."""
    levels = (picture * 255).round().byte().movedim(0, -1).squeeze(-1).cpu().numpy()
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(file, kind, quality=85, optimize=True)
    return file.getvalue()


def _pixels(contents: bytes, kind: str, mode: str) -> Tensor:
    """(H, W, C), or (H, W) of grey, in [0, 1]."""
    with Image.open(BytesIO(contents), formats=[kind]) as picture:
        # known from the header, before anything is decoded
        if max(picture.size) > SIDES[0]:
            raise ValueError(f"one has {picture.size[0]}x{picture.size[1]} pixels")
        return torch.from_numpy(np.array(picture.convert(mode), dtype=np.float32) / 255.0)


def _text(contents: bytes) -> str:
    return base64.b64encode(contents).decode()


def _characters(value: list[Any]) -> int:
    return sum(len(text) for one in value for pair in one for text in pair)
