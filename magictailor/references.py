"""A concept or component as given by the user, and the pictures a step trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from .draws import StepDraws
from .errors import InputError

SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Reference:
    """One concept or component: its class word, its pictures and what to learn in each.

    Attributes:
        class_word: an ordinary word for it, such as "tower"; several words are allowed.
        images: K tensors (3, H, W) in [0, 1]; sizes may differ.
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
        object.__setattr__(self, "images", tuple(_rgb(i, n) for n, i in enumerate(self.images, 1)))
        object.__setattr__(
            self,
            "masks",
            tuple(_mask(m, i, n) for n, (m, i) in enumerate(zip(self.masks, self.images, strict=True), 1)),
        )

    def __len__(self) -> int:
        return len(self.images)


def _rgb(image: Tensor, number: int) -> Tensor:
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
    image = image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
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
    if not (mask > 0.5).any():
        raise InputError(
            "masks", f"mask {number} is empty, so nothing could be learned from its picture; paint it or leave both out"
        )
    return mask


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
        sizes: (B, 6) float, what SDXL is told of a picture, see `picture_sizes`.
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


def picture_sizes(size: tuple[int, int], crop: Crop, resolution: int) -> tuple[list[float], list[float]]:
    """What SDXL is told of a picture and of its mirror image (Podell et al. 2023, section 2.2).

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
    return tuple(
        [float(height), float(width), top, side, float(resolution), float(resolution)] for side in (left, right)
    )


def shown_sizes(pictures: TrainingPictures, draws: StepDraws) -> Tensor:
    """The sizes (B, 6) that go with the pictures `augment` makes."""
    return torch.where(draws.flip[:, None], pictures.mirrored_sizes, pictures.sizes)


def augment(pictures: TrainingPictures, draws: StepDraws) -> tuple[Tensor, Tensor]:
    """Colour jitter and mirroring; picture and mask are mirrored together.

    Returns:
        images (B, 3, R, R) in [-1, 1] and masks (B, 1, R, R).
    """
    images = torch.stack(
        [
            _jitter(image, float(b), float(c), float(s))
            for image, b, c, s in zip(
                (pictures.images + 1.0) / 2.0,
                draws.brightness.tolist(),
                draws.contrast.tolist(),
                draws.saturation.tolist(),
                strict=True,
            )
        ]
    )
    flip = draws.flip.view(-1, 1, 1, 1)
    images = torch.where(flip, images.flip(-1), images)
    masks = torch.where(flip, pictures.masks.flip(-1), pictures.masks)
    return images * 2.0 - 1.0, masks


def _jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    return TF.adjust_saturation(image, saturation)


def shrink(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask at the size of latents or of an attention map: the share of each cell that is to be learned.

    Args:
        masks: (B, 1, R, R) in [0, 1].
        size: (h, w).
    """
    return F.interpolate(masks, size, mode="area")


def fitted(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (H, W) brought to its picture's size (h, w), if both have the same proportions within one percent.

    Raises:
        InputError: the proportions differ, so the mask belongs to another picture or another crop.
    """
    (height, width), (wanted_height, wanted_width) = mask.shape, size
    if abs(width * wanted_height / (height * wanted_width) - 1.0) > 0.01:
        raise InputError(
            "masks",
            f"a mask has {width}x{height} pixels and its picture {wanted_width}x{wanted_height}; "
            "they need the same proportions (an empty 64x64 mask comes from Load Image when the picture has none)",
        )
    if (height, width) == tuple(size):
        return mask
    return F.interpolate(mask.float()[None, None], tuple(size), mode="bilinear", antialias=True)[0, 0]
