"""Picture and mask files as people have them: turned by the camera, with a colour profile, 16 bits, transparency.

Reading `.avif` needs Pillow 11.3 or newer, `.heic` the package pillow-heif.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.Image import Transpose
from torch import Tensor

from ..errors import InputError
from ..reference import fitted, flattened, of_same_proportions

HEIF_SUFFIXES = (".heic", ".heif")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", *HEIF_SUFFIXES,
)  # fmt: skip
# others, such as PostScript, run programs to be read
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF")
# what Pillow refuses too, unless its host has turned that off
MOST_PIXELS = 178_956_970
# no window that is trained on needs more
KEPT_PIXELS = 4096 * 4096
LARGEST_PROFILE = 16 * 2**20  # bytes

_ORIENTATION = 0x0112
# EXIF 2.32, 4.6.4: what brings stored pixels upright
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class PictureFile:
    """A picture that was read, upright, in the colours of sRGB.

    Attributes:
        image: (3, H, W) in [0, 1]; white where it is transparent.
        alpha: (H, W) in [0, 1]; None if it has no transparent parts.
        turn: what brought the stored pixels upright.
        notes: what was decided in reading, as sentences without a period that name the file.
    """

    image: Tensor
    alpha: Tensor | None
    turn: Transpose | None
    notes: tuple[str, ...]


def read_picture(path: Path) -> PictureFile:
    """A picture file; one of more than 16.8 million pixels is shrunk to that.

    Raises:
        InputError: it cannot be read, has more than 179 million pixels, or is transparent everywhere; names "folder".
    """
    raw = _read(path)
    stored, transparency = _split(raw.stored)
    colours, notes = _in_srgb(stored, raw.profile, path.name)
    notes = (*raw.notes, *notes)
    image = _tensor(_turned(colours, raw.turn)).permute(2, 0, 1)
    alpha = None if transparency is None else _tensor(_turned(transparency, raw.turn))
    if alpha is None or bool((alpha == 1.0).all()):
        return PictureFile(image, None, raw.turn, notes)
    if not alpha.any():
        raise InputError("folder", f"{path.name} is transparent everywhere, so there is nothing to learn in it")
    return PictureFile(flattened(torch.cat([image, alpha[None]])), alpha, raw.turn, notes)


def read_mask(path: Path, picture: PictureFile) -> Tensor:
    """The mask (H, W) in [0, 1] of a picture, at its size, from a file of the same proportions.

    White counts where the file is opaque; of one colour everywhere, its transparency alone has the shape. It may have
    been drawn on the picture as it is seen, or as it lies in its file.

    Raises:
        InputError: it cannot be read, or is of other proportions; names "folder".
    """
    raw = _read(path)
    stored, alpha = _split(raw.stored)
    mask = _tensor(stored if stored.mode == "F" else stored.convert("L"))
    if alpha is not None:
        shape = _tensor(alpha)
        seen = mask[shape > 0.0]
        plain = len(seen) > 0 and bool((seen.max() - seen.min() < 1e-2) & (shape < 1.0).any())
        mask = shape if plain else mask * shape
    size = picture.image.shape[1:]
    lies = Image.fromarray(mask.numpy())
    for turn in (raw.turn, None, picture.turn):
        turned = _tensor(_turned(lies, turn))
        if of_same_proportions(turned.shape, size):
            return fitted(turned, size)
    height, width = _tensor(_turned(lies, raw.turn)).shape
    raise InputError(
        "folder",
        f"the mask {path.name} has {width}x{height} pixels and its picture {size[1]}x{size[0]}; "
        "they need the same proportions",
    )


@dataclass(frozen=True)
class _Raw:
    """Decoded pixels as they are stored: L, RGB, LA, RGBA, CMYK, LAB or, from 0 to 1, F."""

    stored: Image.Image
    turn: Transpose | None
    profile: bytes | None
    notes: tuple[str, ...]


def _read(path: Path) -> _Raw:
    try:
        with warnings.catch_warnings():
            # of large sizes, which are bounded here, and of details beside the pixels
            warnings.simplefilter("ignore")
            if path.suffix.lower() in HEIF_SUFFIXES:
                return _decoded(_heif(path), path.name, None)
            with path.open("rb") as file:
                contents, profile = _png_without_text(file)
                with Image.open(contents, formats=_known_formats()) as opened:
                    return _decoded(opened, path.name, profile)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path.name) from error
    except UnidentifiedImageError as error:
        raise InputError(
            "folder", f"{path.name} cannot be read as a picture: it is damaged or of another format"
        ) from error
    # decoders raise errors of any kind on damaged files
    except Exception as error:
        raise InputError("folder", f"{path.name} cannot be read as a picture ({error})") from error


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _heif(path: Path) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise InputError(
            "folder",
            f"{path.name} needs the package pillow-heif to be read; install it, or save the picture as JPEG or PNG",
        ) from error
    opened = pillow_heif.open_heif(path)
    _require_size(opened.size, path.name)
    return opened.to_pillow()


def _png_without_text(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """The file, and the profile of a PNG apart from it: Pillow refuses files with long ones, and with long texts."""
    start = file.read(len(_PNG_SIGNATURE))
    if start != _PNG_SIGNATURE:
        file.seek(0)
        return file, None
    kept, profile = BytesIO(), None
    kept.write(start)
    while len(header := file.read(8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind in _PNG_TEXTS:
            file.seek(length + 4, 1)
            continue
        chunk = file.read(length + 4)
        if kind == b"iCCP":
            profile = _inflated(chunk[:-4])
            continue
        kept.write(header + chunk)
    kept.seek(0)
    return kept, profile


def _inflated(chunk: bytes) -> bytes:
    """The profile in an iCCP chunk: a name, a zero, the method, the deflated profile."""
    try:
        return zlib.decompressobj().decompress(chunk[chunk.index(b"\0") + 2 :], LARGEST_PROFILE)
    except (ValueError, zlib.error):
        return b"damaged"


def _decoded(opened: Image.Image, name: str, profile: bytes | None) -> _Raw:
    _require_size(opened.size, name)
    notes: tuple[str, ...] = ()
    # the pictures beside the first one in a phone's MPO are for its own use
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format != "MPO":
        notes = (f"{name} holds {frames} pictures, of which the first is taken",)
    small = _bounded(opened.size)
    opened.draft(None, small)  # JPEG can be decoded at a fraction of its size
    opened.load()
    profile = profile or opened.info.get("icc_profile")
    turn = _turn(opened)
    picture = _plain(opened, name)
    if picture.size[0] * picture.size[1] > KEPT_PIXELS:
        picture = picture.resize(small, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _Raw(picture, turn, profile, notes)


def _require_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise _too_large(name, f"{size[0]}x{size[1]} pixels, ")


def _too_large(name: str, size: str = "") -> InputError:
    return InputError("folder", f"{name} has {size}more than the {MOST_PIXELS // 10**6} million that are read")


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of these proportions that is kept."""
    scale = min(1.0, (KEPT_PIXELS / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _turn(opened: Image.Image) -> Transpose | None:
    # what is malformed says nothing; TIFF is turned by Pillow, which takes the entry away
    try:
        return _TURNS.get(opened.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def _plain(opened: Image.Image, name: str) -> Image.Image:
    """The same picture in one of the modes of `_Raw`."""
    if opened.mode.startswith(("I", "F")):
        return _scaled(np.asarray(opened, dtype=np.float32), opened.mode, name)
    if opened.has_transparency_data:
        return opened.convert("LA" if opened.mode in ("LA", "La") else "RGBA")
    if opened.mode in ("L", "RGB", "CMYK", "LAB"):
        return opened.copy()
    return opened.convert("L" if opened.mode == "1" else "RGB")


def _scaled(values: NDArray[Any], mode: str, name: str) -> Image.Image:
    """Grey of more than 8 bits, from 0 to 1."""
    highest = 1.0 if mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not 0.0 <= low <= high <= highest:
        raise InputError(
            "folder", f"{name} holds values from {low:g} to {high:g} in place of 0 to {highest:g}; save it with 8 bits"
        )
    return Image.fromarray(values / highest)


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours, and transparency apart."""
    if picture.mode not in ("LA", "RGBA"):
        return picture, None
    return picture.convert(picture.mode[:-1]), picture.getchannel("A")


def _in_srgb(picture: Image.Image, profile: bytes | None, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """RGB of 8 bits, by the picture's own colour profile if it has one."""
    if picture.mode == "F":
        return Image.fromarray(np.asarray(picture) * 255.0).convert("L").convert("RGB"), ()
    notes: tuple[str, ...] = ()
    if profile:
        try:
            known = ImageCms.ImageCmsProfile(BytesIO(profile))
            # grey is often saved with a profile of colours
            of_colours = known.profile.xcolor_space.strip() == "RGB"
            return _converted(picture.convert("RGB") if of_colours else picture, known), ()
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes = (f"the colour profile of {name} cannot be used and is left out",)
    if picture.mode == "LAB":
        return _converted(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), notes
    return picture.convert("RGB"), notes


def _converted(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only a conversion in place gives nothing
    return converted


def _turned(picture: Image.Image, turn: Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)


def _tensor(picture: Image.Image) -> Tensor:
    """(H, W) or (H, W, C) in [0, 1]."""
    values = np.array(picture, dtype=np.float32)
    return torch.from_numpy(values if picture.mode == "F" else values / 255.0)
