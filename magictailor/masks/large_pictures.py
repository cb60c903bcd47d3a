"""Pictures with more pixels than finding and outlining something on them can use."""

import torch
from torch.nn import functional

LONGEST = 4096  # pixels; the detector sees 1333 at most and the segmenter 1024


def smaller_copy(image: torch.Tensor) -> torch.Tensor:
    """The image (C, H, W) itself, or a copy whose longer side has LONGEST pixels if it has more; at least 1 pixel."""
    height, width = image.shape[-2:]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
