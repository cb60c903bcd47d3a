"""What references can be learned from, but badly: to be told before hours are spent on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .pictures import crop_around
from .reference import Reference

ENLARGED = 1.5  # times; below, nobody sees it
SMALLEST = 1 / 256  # of a window's area: one of the 16 x 16 places in which attention is looked at
AT_THE_EDGE = 0.95  # of a picture's outermost pixels
EVERYWHERE = 0.98  # of a picture's pixels: a mask on purpose of all of it


def doubts(references: Sequence[Reference], resolution: int | None = None) -> list[str]:
    """Sentences on pictures that are too small, and on masks that are too small or seem to be inverted.

    Args:
        resolution: R, at which they are learned; None: not known yet.
    """
    kinds: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
        (
            lambda mask: resolution is not None and enlargement(mask, resolution) > ENLARGED,
            f"is enlarged to {resolution} pixels, and its blur is learned; take larger pictures or a lower resolution",
        ),
        (
            lambda mask: share_of_window(mask) < SMALLEST,
            "has a mask too small for anything to be learned well; crop the picture nearer to it",
        ),
        (
            looks_inverted,
            "has a mask that covers the picture's edge and leaves a part inside out; if that was not meant, invert it",
        ),
    )
    found = []
    for reference in references:
        for doubtful, sentence in kinds:
            numbers = [str(n) for n, mask in enumerate(reference.masks, 1) if doubtful(mask)]
            if numbers:
                found.append(f"{reference.class_word}, picture {', '.join(numbers)}: {sentence}")
    return found


def enlargement(mask: Tensor, resolution: int) -> float:
    """How many times a picture with a mask (H, W) is enlarged to be learned at a resolution; below 1: made smaller."""
    return resolution / crop_around(mask).side


def share_of_window(mask: Tensor) -> float:
    """Which share of what is seen of a picture its mask (H, W) in [0, 1] covers."""
    return float(mask.sum()) / crop_around(mask).side ** 2


def looks_inverted(mask: Tensor) -> bool:
    """Whether a mask (H, W) covers all of a picture's edge, but not all of the picture."""
    inside = (mask > 0.5).float()
    edge = torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    return bool(edge.mean() >= AT_THE_EDGE and inside.mean() < EVERYWHERE)
