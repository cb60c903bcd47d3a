"""What of a picture an encoder is shown: a thing cut out along its mask, or what is around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.1  # of the longer side of a region, around it
SMALLEST = 1 / 400  # of a picture's pixels; a smaller region is of nothing that could be compared


def cut_out(picture: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """The square around a region, with everything outside the region painted over.

    Args:
        picture: (3, H, W) in [0, 1].
        mask: (H, W) in [0, 1], with something in it.
        colour: (3,) to paint with; the mean of an encoder is zero for it.

    Returns:
        (3, S, S); where the square reaches beyond the picture it has the colour too.
    """
    painted = picture * mask + colour[:, None, None] * (1.0 - mask)
    rows, columns = (torch.nonzero((mask > 0.5).any(dim=side)).flatten() for side in (1, 0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = round(max(bottom - top, right - left) * (1.0 + 2.0 * MARGIN))
    above, before = (top + bottom - side) // 2, (left + right - side) // 2
    square = colour[:, None, None].repeat(1, side, side)
    height, width = mask.shape
    here = (slice(max(above, 0), min(above + side, height)), slice(max(before, 0), min(before + side, width)))
    there = tuple(slice(s.start - start, s.stop - start) for s, start in zip(here, (above, before), strict=True))
    square[:, there[0], there[1]] = painted[:, here[0], here[1]]
    return square


def around(picture: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """A picture (3, H, W) in [0, 1] with what is inside a mask (H, W) painted over, and a little around it."""
    reach = max(1, round(max(mask.shape) / 64))
    wider = F.max_pool2d(mask[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    return picture * (1.0 - wider) + colour[:, None, None] * wider


def is_there(mask: Tensor) -> bool:
    """Whether a mask (H, W) has enough in it to be compared."""
    return bool((mask > 0.5).float().mean() >= SMALLEST)
