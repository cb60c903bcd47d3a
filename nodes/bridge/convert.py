"""Between the host's tensors (BHWC, inference mode) and the library's (CHW, ordinary)."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...magictailor.reference import flattened


def image_to_library(images: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, 3, H, W) in [0, 1], copied, see `flattened`."""
    with torch.inference_mode(False):
        return flattened(_channels_first(images)).contiguous()


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
        return [image for batch in batches for image in _channels_first(batch)]


def masks_to_library(batches: Iterable[Tensor]) -> list[Tensor]:
    """A list of MASK batches (B, H, W) or single masks (H, W) of any sizes -> one list of (H, W), copied."""
    with torch.inference_mode(False):
        return [mask.clone() for batch in batches for mask in (batch if batch.ndim == 3 else batch[None])]


def _channels_first(images: Tensor) -> Tensor:
    return images.clone().movedim(-1, 1).float()
