"""The released program's data folder: `{concept}_{id}+{component}_{id}/` with pictures and optional masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import InputError
from ..reference import Reference

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class PairPart:
    """The pictures of the concept or of one component, as found in a folder.

    Attributes:
        class_word: read off the folder's name.
        images: (3, H, W) in [0, 1].
        masks: (H, W) in [0, 1], None where the folder has no mask of that name.
        names: file names of the pictures.
    """

    class_word: str
    images: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    names: tuple[str, ...]

    @property
    def without_mask(self) -> tuple[str, ...]:
        """Names of the pictures that have no mask."""
        return tuple(name for name, mask in zip(self.names, self.masks, strict=True) if mask is None)

    def reference(self) -> Reference:
        """The reference, if every picture has its mask.

        Raises:
            InputError: a mask is missing or cannot be used.
        """
        if self.without_mask:
            raise InputError(
                "folder",
                f"there is no mask for {', '.join(self.without_mask)}; masks are white on black, of the same names, in "
                "its subfolder masks",
            )
        return Reference(self.class_word, self.images, tuple(mask for mask in self.masks if mask is not None))


def pair_folders(root: Path) -> Iterator[str]:
    """Names, relative to `root` and with `/`, of the folders below it that are named like a pair, sorted."""
    if root.is_dir():
        yield from sorted(
            path.relative_to(root).as_posix() for path in root.rglob("*+*") if path.is_dir() and _words(path.name)
        )


def load_pair(folder: Path) -> tuple[PairPart, ...]:
    """Read the concept (first) and its components.

    Raises:
        InputError: the folder is missing, is not named like a pair, or a picture is missing or cannot be read.
    """
    words = _words(folder.name)
    if not words:
        raise InputError(
            "folder",
            f"{folder.name!r} is not named {{concept}}_{{id}}+{{component}}_{{id}}, such as tower_a+roof_a",
        )
    if not folder.is_dir():
        raise InputError("folder", f"there is no folder {folder.name!r} in {folder.parent}")
    return tuple(_part(folder, number, word) for number, word in enumerate(words))


def _words(name: str) -> list[str]:
    parts = [part.strip() for part in name.split("+")]
    if len(parts) < 2 or not all(parts):
        return []
    # only what follows the last underline tells two of a kind apart
    return [(part.rpartition("_")[0] or part).replace("_", " ").strip() for part in parts]


def _part(folder: Path, number: int, word: str) -> PairPart:
    pictures = sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(f"{number}_") and path.suffix.lower() in PICTURE_SUFFIXES
    )
    if not pictures:
        raise InputError(
            "folder", f"{folder.name!r} has no picture of {word}: their names have to begin with {number}_"
        )
    images = tuple(read_picture(path) for path in pictures)
    masks = []
    for path, image in zip(pictures, images, strict=True):
        mask_path = folder / "masks" / f"{path.stem}.png"
        masks.append(_read_mask(mask_path, image) if mask_path.is_file() else None)
    return PairPart(word, images, tuple(masks), tuple(path.name for path in pictures))


def read_picture(path: Path) -> Tensor:
    """A picture file as (3, H, W) in [0, 1], turned upright.

    Raises:
        InputError: it cannot be read.
    """
    return _pixels(path, "RGB").permute(2, 0, 1)


def _read_mask(path: Path, image: Tensor) -> Tensor:
    mask = _pixels(path, "L")
    if mask.shape != image.shape[1:]:
        raise InputError(
            "folder",
            f"the mask {path.name} has {mask.shape[1]}x{mask.shape[0]} pixels and its picture "
            f"{image.shape[2]}x{image.shape[1]}; they have to be of one size",
        )
    return mask


def _pixels(path: Path, mode: str) -> Tensor:
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert(mode)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError("folder", f"{path.name} cannot be read as a picture ({error})") from error
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)
