"""A concept or component as given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Reference:
    """One concept or component: its class word, its pictures and what to learn in each.

    Attributes:
        class_word: an ordinary word for it, such as "tower"; several words are allowed.
        images: K tensors (3, H, W) in [0, 1]; sizes may differ. Given with a fourth channel, alpha, they are put on
            white, and what is transparent is taken out of their masks.
        masks: K tensors (H, W) in [0, 1], 1 = learn; each of its picture's size.

    Raises:
        InputError: counts differ, a mask is empty, a picture is tiny or holds NaN, the class word is empty.
    """

    class_word: str
    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_word", " ".join(self.class_word.split()))
        if not self.class_word:
            raise InputError("class_word", "is empty; give an ordinary word for what is learned, such as tower or hair")
        if not self.images:
            raise InputError("images", "there is no picture; give at least one")
        if len(self.images) != len(self.masks):
            raise InputError(
                "masks",
                f"there are {len(self.masks)} masks for {len(self.images)} pictures of {self.class_word}; "
                "give exactly one mask for each picture",
            )
        images = tuple(_checked(image, n) for n, image in enumerate(self.images, 1))
        pairs = zip(self.masks, images, strict=True)
        object.__setattr__(self, "masks", tuple(_mask(mask, image, n) for n, (mask, image) in enumerate(pairs, 1)))
        object.__setattr__(self, "images", tuple(map(flattened, images)))

    def __len__(self) -> int:
        return len(self.images)


def flattened(image: Tensor) -> Tensor:
    """Pictures (..., C, H, W) in [0, 1] as RGB (..., 3, H, W): grey repeated, and put on white by their alpha.

    Args:
        image: grey, RGB, or RGB and alpha.
    """
    if image.shape[-3] == 4:
        colours, alpha = image.split([3, 1], dim=-3)
        return colours * alpha + (1.0 - alpha)
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:])


def _checked(image: Tensor, number: int) -> Tensor:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise InputError(
            "images",
            f"picture {number} has shape {tuple(image.shape)}; it has to be (channels, height, width), 1 to 4 channels",
        )
    if min(image.shape[1:]) < SMALLEST_SIDE:
        raise InputError(
            "images",
            f"picture {number} has {image.shape[2]}x{image.shape[1]} pixels, too few to learn from; "
            f"its shorter side needs {SMALLEST_SIDE} or more",
        )
    image = image.float()
    if not torch.isfinite(image).all():
        raise InputError("images", f"picture {number} holds NaN or infinite values; load or make it again")
    return image.clamp(0.0, 1.0)


def _mask(mask: Tensor, image: Tensor, number: int) -> Tensor:
    height, width = image.shape[1:]
    if tuple(mask.shape) != (height, width):
        raise InputError(
            "masks",
            f"mask {number} has {mask.shape[-1]}x{mask.shape[-2]} pixels and its picture {width}x{height}; "
            "they have to be of one size",
        )
    mask = mask.float()
    if not torch.isfinite(mask).all():
        raise InputError("masks", f"mask {number} holds NaN or infinite values; make it again")
    mask = mask.clamp(0.0, 1.0)
    if len(image) == 4:
        mask = mask * image[3]
    if not (mask > 0.5).any():
        brightest = float(mask.max())
        why = f"holds nothing brighter than {brightest:.2g} of 1, where white is learned" if brightest else "is empty"
        raise InputError(
            "masks", f"mask {number} {why}, so nothing could be learned from its picture; paint it or leave both out"
        )
    return mask


def fitted(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (H, W) brought to its picture's size (h, w), if both have the same proportions within one percent.

    Raises:
        InputError: the proportions differ, so the mask belongs to another picture or another crop.
    """
    if not of_same_proportions(mask.shape, size):
        raise InputError(
            "masks",
            f"a mask has {mask.shape[1]}x{mask.shape[0]} pixels and its picture {size[1]}x{size[0]}; "
            "they need the same proportions",
        )
    if tuple(mask.shape) == tuple(size):
        return mask
    return F.interpolate(mask.float()[None, None], tuple(size), mode="bilinear", antialias=True)[0, 0]


def of_same_proportions(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes (h, w) have the same proportions within one percent."""
    (height, width), (other_height, other_width) = size, other
    return abs(width * other_height / (height * other_width) - 1.0) <= 0.01
