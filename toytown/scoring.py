"""The toy town's CLIP as the library's scores ask for it."""

from __future__ import annotations

import pathlib

from magictailor.scores.encoders import ClipEncoder

from .model import load_tokenizer
from .vision import DEVIATION, MEAN, WEIGHTS, load_clip


def load_encoder(path: pathlib.Path = WEIGHTS) -> ClipEncoder:
    """Both of its encoders with the weights of a file."""
    return ClipEncoder("toy town CLIP", load_clip(path), load_tokenizer(), MEAN, DEVIATION)
