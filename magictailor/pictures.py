"""The pictures a step trains on: cropped around what is learned, and changed at random from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from .draws import StepDraws
from .reference import Reference


@dataclass(frozen=True)
class Crop:
    """A square window on a picture, in its pixels; it may reach past the picture's edges."""

    top: int
    left: int
    side: int


def crop_around(mask: Tensor) -> Crop:
    """The square window to train on: as wide as the picture's shorter side, or wider if the mask needs it.

    The window lies centred on the mask as far as the picture allows, and always contains all of the mask.

    Args:
        mask: (H, W) in [0, 1], not empty.
    """
    height, width = mask.shape
    top, bottom = _extent(mask.amax(1))
    left, right = _extent(mask.amax(0))
    side = max(min(height, width), bottom - top, right - left)
    return Crop(_place(top, bottom, side, height), _place(left, right, side, width), side)


def _extent(profile: Tensor) -> tuple[int, int]:
    inside = (profile > 0.5).nonzero().flatten()
    return int(inside[0]), int(inside[-1]) + 1


def _place(low: int, high: int, side: int, length: int) -> int:
    start = (low + high - side) // 2
    if side <= length:
        return min(max(start, 0), length - side)
    return (length - side) // 2


def cut(picture: Tensor, crop: Crop, resolution: int, *, outside: str) -> Tensor:
    """Cut a window out and bring it to R x R pixels.

    Args:
        picture: (C, H, W) in [0, 1].
        crop: the window.
        resolution: R.
        outside: what stands past the picture's edges: "replicate" its border, or "zero".

    Returns:
        (C, R, R) in [0, 1].
    """
    height, width = picture.shape[1:]
    before = (max(-crop.left, 0), max(-crop.top, 0))
    after = (max(crop.left + crop.side - width, 0), max(crop.top + crop.side - height, 0))
    padding = (before[0], after[0], before[1], after[1])
    if any(padding):
        mode = {"replicate": "replicate", "zero": "constant"}[outside]
        picture = F.pad(picture[None], padding, mode=mode)[0]
    top, left = crop.top + before[1], crop.left + before[0]
    window = picture[:, top : top + crop.side, left : left + crop.side]
    resized = F.interpolate(window[None], (resolution, resolution), mode="bicubic", antialias=True)[0]
    return resized.clamp(0.0, 1.0)


@dataclass(frozen=True)
class TrainingPictures:
    """All pictures of all references at the training resolution, one batch.

    Attributes:
        images: (B, 3, R, R) in [-1, 1].
        masks: (B, 1, R, R) in [0, 1].
        owners: (B,) int64, index of the reference a picture belongs to: 0 is the concept.
        sizes: (B, 6) float, what some families are told of a picture, see `picture_sizes`.
        mirrored_sizes: (B, 6) float, the same of the mirrored picture.
    """

    images: Tensor
    masks: Tensor
    owners: Tensor
    sizes: Tensor
    mirrored_sizes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> TrainingPictures:
        return TrainingPictures(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def prepare(reference: Reference, resolution: int) -> tuple[Tensor, Tensor]:
    """Crop and resize a reference's pictures.

    Returns:
        images (K, 3, R, R) in [0, 1] and masks (K, 1, R, R) in [0, 1].
    """
    crops = [crop_around(mask) for mask in reference.masks]
    images = [cut(i, c, resolution, outside="replicate") for i, c in zip(reference.images, crops, strict=True)]
    masks = [cut(m[None], c, resolution, outside="zero") for m, c in zip(reference.masks, crops, strict=True)]
    return torch.stack(images), torch.stack(masks)


def training_pictures(references: Sequence[Reference], resolution: int) -> TrainingPictures:
    """Put all references (concept first) into one batch."""
    prepared = [prepare(reference, resolution) for reference in references]
    owners = torch.cat([torch.full((len(r),), n, dtype=torch.long) for n, r in enumerate(references)])
    sizes = [
        picture_sizes(mask.shape, crop_around(mask), resolution) for reference in references for mask in reference.masks
    ]
    return TrainingPictures(
        images=torch.cat([images for images, _ in prepared]) * 2.0 - 1.0,
        masks=torch.cat([masks for _, masks in prepared]),
        owners=owners,
        sizes=torch.tensor([plain for plain, _ in sizes]),
        mirrored_sizes=torch.tensor([mirrored for _, mirrored in sizes]),
    )


def picture_sizes(size: Sequence[int], crop: Crop, resolution: int) -> tuple[list[float], list[float]]:
    """What some families are told of a picture and of its mirror image (Podell et al. 2023, section 2.2).

    Args:
        size: (height, width) of the whole picture.
        crop: the window on it.
        resolution: R, to which the window is brought.

    Returns:
        height, width, top, left, R, R; top and left count pixels of the picture after resizing, cut off by the window.
    """
    height, width = size
    scale = resolution / crop.side
    top, left, right = (
        float(max(round(scale * margin), 0)) for margin in (crop.top, crop.left, width - crop.left - crop.side)
    )
    plain, mirrored = (
        [float(height), float(width), top, side, float(resolution), float(resolution)] for side in (left, right)
    )
    return plain, mirrored


def shown_sizes(pictures: TrainingPictures, draws: StepDraws) -> Tensor:
    """The sizes (B, 6) that go with the pictures `augment` makes."""
    return torch.where(draws.flip[:, None], pictures.mirrored_sizes, pictures.sizes)


def augment(pictures: TrainingPictures, draws: StepDraws) -> tuple[Tensor, Tensor]:
    """Colour jitter and mirroring; picture and mask are mirrored together.

    Returns:
        images (B, 3, R, R) in [-1, 1] and masks (B, 1, R, R).
    """
    images = _jittered((pictures.images + 1.0) / 2.0, draws)
    flip = draws.flip.view(-1, 1, 1, 1)
    images = torch.where(flip, images.flip(-1), images)
    masks = torch.where(flip, pictures.masks.flip(-1), pictures.masks)
    return images * 2.0 - 1.0, masks


def _jittered(images: Tensor, draws: StepDraws) -> Tensor:
    """Brightness, contrast and saturation, as torchvision's colour jitter, by factors that stay on the device."""
    brightness, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (draws.brightness, draws.contrast, draws.saturation)
    )
    images = _blend(images, torch.zeros_like(images), brightness)
    grey = TF.rgb_to_grayscale(images).mean(dim=(1, 2, 3), keepdim=True)
    images = _blend(images, grey, contrast)
    return _blend(images, TF.rgb_to_grayscale(images), saturation)


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (images * share + other * (1.0 - share)).clamp(0.0, 1.0)


def shrink(masks: Tensor, size: Sequence[int]) -> Tensor:
    """A mask at the size of latents or of an attention map: the share of each cell that is to be learned.

    Args:
        masks: (B, 1, R, R) in [0, 1].
        size: (h, w).
    """
    return F.interpolate(masks, tuple(size), mode="area")
