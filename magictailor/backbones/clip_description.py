"""What tells one CLIP text encoder from another."""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = 49407


@dataclass(frozen=True)
class TextEncoderDescription:
    """One CLIP text encoder of a family.

    Attributes:
        key: its name in embedding files, as ComfyUI and A1111 read them.
        activation: of its MLPs, by transformers' name.
        head_width: width of an attention head.
        pad_token: id that fills a prompt up to 77.
        layer: which hidden layer the network is shown, counted from the end: -1 is the last.
        normalised: whether the final layer norm is applied to that layer.
        pooled: whether the network is also shown its last layer at the end token, normalised and projected.
    """

    key: str
    activation: str
    head_width: int
    pad_token: int
    layer: int
    normalised: bool
    pooled: bool = False
