"""Fonts for what people write: class words and prompts in any script."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib.font_manager import FontEntry, fontManager, get_font
from PIL import ImageFont

# brings nearly all alphabets, and comes with matplotlib
FIRST = "DejaVu Sans"
_USUAL_WEIGHTS = (400, "normal", "regular")
# categories of Unicode that draw nothing of their own: controls, joiners, variants, spaces
_INVISIBLE = ("Cc", "Cf", "Mn", "Zs")


def missing_letters(text: str) -> str:
    """The letters of a text that no font on this machine can draw, each once."""
    seen = (letter for letter in dict.fromkeys(text) if unicodedata.category(letter) not in _INVISIBLE)
    return "".join(letter for letter in seen if _font_with(letter) is None)


def missing_note(text: str) -> str:
    """What a person can do about the letters that are drawn as empty boxes; "" if there are none."""
    missing = missing_letters(text)
    return f"no font here has {missing}; install one, such as Noto Sans CJK" if missing else ""


def log_missing(text: str) -> None:
    """Log what `missing_note` says."""
    note = missing_note(text)
    if note:
        logging.warning("MagicTailor: %s.", note)


@contextmanager
def fonts_for(text: str) -> Iterator[None]:
    """While it lasts, matplotlib draws a text with fonts that have its letters; logs which letters none has."""
    log_missing(text)
    found = (_font_with(letter) for letter in dict.fromkeys(text))
    names = dict.fromkeys([FIRST, *(font.name for font in found if font is not None)])
    with matplotlib.rc_context({"font.family": list(names)}), warnings.catch_warnings():
        # said above, once
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def pillow_font(text: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of a size in pixels with the most letters of a text."""
    letters = list(dict.fromkeys(text))
    fonts = [font for letter in letters if (font := _font_with(letter)) is not None]
    if not fonts:
        return ImageFont.load_default(size=size)
    best = max(fonts, key=lambda font: sum(_has(font, letter) for letter in letters))
    return ImageFont.truetype(best.fname, size=size)


@cache
def _font_with(letter: str) -> FontEntry | None:
    return next((font for font in _fonts() if _has(font, letter)), None)


@cache
def _fonts() -> list[FontEntry]:
    """Upright fonts of usual weight, the one that is taken first at the front."""
    upright = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in _USUAL_WEIGHTS]
    # matplotlib's font of last resort has a box for every letter
    drawing = [font for font in upright if not font.name.startswith("Last Resort")]
    return sorted(drawing, key=lambda font: font.name != FIRST)


def _has(font: FontEntry, letter: str) -> bool:
    return ord(letter) in _letters(font.fname)


@cache
def _letters(path: str) -> frozenset[int]:
    """Code points of a font file; none if it cannot be drawn with, as fonts of coloured bitmaps."""
    try:
        font = get_font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
