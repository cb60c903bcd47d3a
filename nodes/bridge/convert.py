"""Between the host's tensors (BHWC, inference mode) and the library's (CHW, ordinary).

The host promises little about IMAGE and MASK: other packs hand on single pictures, masks with a channel, 8 bits, and
what still lies on the graphics card. All of it comes in through here.
"""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...magictailor.errors import InputError
from ...magictailor.reference import flattened

SLACK = 0.05  # resampling and colour corrections overshoot
MOST_OUTSIDE = 0.1  # of a picture's values; highlights are fewer
EIGHT_BIT_WHITE = 128  # a mask in 8 bits with nothing above it is empty


def image_to_library(images: Tensor, field: str = "images") -> Tensor:
    """IMAGE (B, H, W, C) or (H, W, C) -> (B, 3, H, W) in [0, 1] on the CPU, copied, see `flattened`.

    Raises:
        InputError: it is no picture, or its values are not from 0 to 1; names `field`.
    """
    with torch.inference_mode(False):
        return flattened(_channels_first(images, field)).contiguous()


def image_from_library(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> IMAGE (B, H, W, 3)."""
    return images.movedim(1, -1).contiguous().cpu()


def image_from_pil(picture: Image.Image) -> Tensor:
    """One RGB picture -> IMAGE (1, H, W, 3)."""
    return torch.from_numpy(np.array(picture)).float()[None] / 255


def images_to_library(batches: Iterable[Tensor]) -> list[Tensor]:
    """A list of IMAGE batches of any sizes -> one list of (3, H, W)."""
    return [image for batch in batches for image in image_to_library(batch)]


def images_with_alpha(batches: Iterable[Tensor]) -> list[Tensor]:
    """A list of IMAGE batches of any sizes -> one list of (C, H, W), copied, for references."""
    with torch.inference_mode(False):
        return [image for batch in batches for image in _channels_first(batch, "images")]


def masks_to_library(batches: Iterable[Tensor]) -> list[Tensor]:
    """A list of MASK batches of any sizes -> one list of (H, W) on the CPU, copied.

    Args:
        batches: (B, H, W), (H, W), or with a channel, (B, 1, H, W) or (B, H, W, 1); in [0, 1] or 8 bits.

    Raises:
        InputError: one is no mask; names "masks".
    """
    with torch.inference_mode(False):
        return [mask for batch in batches for mask in _masks(batch)]


def _channels_first(images: Tensor, field: str) -> Tensor:
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
        raise InputError(
            field,
            f"the shape is {tuple(images.shape)}, and an IMAGE has (pictures, height, width, channels) with 1, 3 or 4 "
            "channels; take another node in place of the one that made it",
        )
    values = batch.to("cpu", torch.float32, copy=True)
    if images.dtype == torch.uint8:
        values /= 255
    else:
        for picture in values:
            _bring_into_range(picture, field)
    return values.movedim(-1, 1)


def _bring_into_range(picture: Tensor, field: str) -> None:
    """Scale a picture in 8 bits, in place; refuse one of another range, which would be learned as white or black."""
    outside = ((picture < -SLACK) | (picture > 1.0 + SLACK)).float().mean()
    if outside <= MOST_OUTSIDE or not torch.isfinite(picture).all():
        return
    low, high = (value.item() for value in picture.aminmax())
    if low < 0.0 or high > 255.0 or not torch.equal(picture, picture.round()):
        raise InputError(
            field,
            f"a picture has values from {low:.3g} to {high:.3g}, and those of an IMAGE are from 0 to 1; take another "
            "node in place of the one that made it",
        )
    picture /= 255


def _masks(masks: Tensor) -> Tensor:
    batch = masks[None] if masks.ndim == 2 else masks
    if batch.ndim == 4 and 1 in (batch.shape[1], batch.shape[3]):
        batch = batch.squeeze(3 if batch.shape[3] == 1 else 1)
    if batch.ndim != 3:
        raise InputError(
            "masks",
            f"the shape is {tuple(masks.shape)}, and a MASK has (masks, height, width); take another node in place "
            "of the one that made it",
        )
    values = batch.to("cpu", torch.float32, copy=True)
    if not values.numel():
        return values
    eight_bit = values.amax(dim=(1, 2), keepdim=True) >= EIGHT_BIT_WHITE
    return torch.where(eight_bit, values / 255, values)
