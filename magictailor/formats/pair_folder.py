"""The released program's data folder: `{concept}_{id}+{component}_{id}/` with pictures and optional masks."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..reference import Reference
from .picture_file import SUFFIXES, PictureFile, read_mask, read_picture

MASKS = "masks"


@dataclass(frozen=True)
class PairPart:
    """The pictures of the concept or of one component, as found in a folder.

    Attributes:
        class_word: read off the folder's name.
        images: (3, H, W) in [0, 1].
        masks: (H, W) in [0, 1]; of a picture without a mask what is not transparent, None if it has no such parts.
        names: file names of the pictures.
        notes: what was decided in reading them, as sentences without a period.
    """

    class_word: str
    images: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

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
    """Names, relative to `root` and with `/`, of the folders below it that are named like a pair, sorted.

    Hidden folders, and those that a Mac packs beside the files of an archive, are left out.
    """
    found = []
    # looks at no file: there may be very many
    for parent, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [(Path(parent) / name).relative_to(root).as_posix() for name in folders if _words(name)]
    yield from sorted(found)


def load_pair(folder: Path) -> tuple[PairPart, ...]:
    """Read the concept (first) and its components.

    Raises:
        InputError: the folder is missing, is not named like a pair, or a picture is missing or cannot be read.
    """
    return tuple(_part(folder, number, word) for number, word in enumerate(_checked_words(folder)))


def _checked_words(folder: Path) -> list[str]:
    words = _words(folder.name)
    if not words:
        raise InputError(
            "folder",
            f"{folder.name!r} is not named {{concept}}_{{id}}+{{component}}_{{id}}, such as tower_a+roof_a",
        )
    if not folder.is_dir():
        raise InputError("folder", f"there is no folder {folder.name!r} in {folder.parent}")
    return words


def _words(name: str) -> list[str]:
    parts = [part.strip() for part in unicodedata.normalize("NFC", name).split("+")]
    if len(parts) < 2 or not all(parts):
        return []
    # only what follows the last underline tells two of a kind apart
    return [(part.rpartition("_")[0] or part).replace("_", " ").strip() for part in parts]


def files_of_pair(folder: Path) -> list[Path]:
    """The files that `load_pair` reads: pictures, each followed by its mask.

    Raises:
        InputError: the folder is missing or is not named like a pair.
    """
    files = []
    for number, _ in enumerate(_checked_words(folder)):
        for picture in _pictures(folder, number)[0]:
            files += [picture, *_masks(folder, picture)[:1]]
    return files


def _part(folder: Path, number: int, word: str) -> PairPart:
    paths, others = _pictures(folder, number)
    notes = [f"{path.name} is left out: it is not a picture of a format that is read" for path in others]
    if not paths:
        left_out = f" ({', '.join(path.name for path in others)} cannot be read)" if others else ""
        raise InputError(
            "folder",
            f"{folder.name!r} has no picture of {word}{left_out}: their names have to begin with {number}_ and end "
            f"with one of {', '.join(SUFFIXES)}",
        )
    pictures = [read_picture(path) for path in paths]
    masks = []
    for path, picture in zip(paths, pictures, strict=True):
        notes += picture.notes
        masks.append(_mask(folder, path, picture, notes))
    return PairPart(
        word, tuple(p.image for p in pictures), tuple(masks), tuple(path.name for path in paths), tuple(notes)
    )


def _pictures(folder: Path, number: int) -> tuple[list[Path], list[Path]]:
    """Files of the concept or of a component: those that can be read, and those that look like it and cannot."""
    named = [path for path in sorted(folder.iterdir()) if path.name.startswith(f"{number}_") and path.is_file()]
    readable = [path for path in named if path.suffix.lower() in SUFFIXES]
    return readable, [path for path in named if path not in readable]


def _mask(folder: Path, path: Path, picture: PictureFile, notes: list[str]) -> Tensor | None:
    """The mask of a picture at its size; what was decided is added to the notes."""
    found = _masks(folder, path)
    if not found:
        if picture.alpha is None or not (picture.alpha < 0.5).any():
            return None
        notes.append(f"{path.name} has no mask, so all of it that is not transparent is learned")
        return picture.alpha
    if len(found) > 1:
        notes.append(f"{path.name} has several masks, of which {found[0].name} is taken")
    mask = read_mask(found[0], picture)
    # what lies under transparent pixels is not to be seen
    return mask if picture.alpha is None else mask * picture.alpha


def _masks(folder: Path, picture: Path) -> list[Path]:
    """Masks named like a picture, the best match first: of the same case, then PNG."""
    found = [
        path
        for masks in sorted(folder.iterdir())
        if masks.name.lower() == MASKS and masks.is_dir()
        for path in masks.iterdir()
        if _alike(path.stem) == _alike(picture.stem) and path.suffix.lower() in SUFFIXES
    ]
    return sorted(found, key=lambda path: (path.stem != picture.stem, path.suffix.lower() != ".png", path.name))


def _alike(stem: str) -> str:
    """The same for names that differ in case alone, or in how a Mac writes accents."""
    return unicodedata.normalize("NFC", stem).casefold()
