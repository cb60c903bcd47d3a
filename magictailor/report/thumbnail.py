"""A small picture of what a tailoring draws, for the lists of model managers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import InputError

LONGEST_SIDE = 256


def thumbnail_jpeg(image: Tensor) -> bytes:
    """A picture as a JPEG file of at most 256 pixels a side, its proportions kept.

    Args:
        image: (3, H, W) in [0, 1].

    Raises:
        InputError: it is no such picture, or holds NaN; names "thumbnail".
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or not image.isfinite().all():
        raise InputError("thumbnail", "is not a picture of finite colours")
    pixels = (image.clamp(0.0, 1.0) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
