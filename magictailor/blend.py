"""Two tailorings or more as one: LoRAs that were learned apart added up, the tokens of all in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .backbones.lora_layout import LoraLayout
from .errors import InputError
from .tailoring import Tailoring, require_family
from .tokens import checked_names


def blended(tailorings: Sequence[Tailoring], strengths: Sequence[float], rank: int = 0) -> tuple[Tailoring, float]:
    """One tailoring that does what all of them do together.

    Args:
        tailorings: at least one, of one family, the one whose concept comes first in front; no two tokens have the same
            name.
        strengths: of each LoRA.
        rank: of the one LoRA; 0 takes as much as all of them have, which loses nothing.

    Returns:
        the tailoring, without a config, for it was not trained; and the share of the LoRAs' squared weights that the
        rank keeps, from 0 to 1.

    Raises:
        InputError: there are not as many strengths, names "strengths"; one is of another family, names "tailoring"; or
            two tokens have the same name, names "tailorings".
    """
    if len(tailorings) != len(strengths):
        raise InputError("strengths", f"there are {len(strengths)} for {len(tailorings)} tailorings; give one for each")
    first = tailorings[0]
    for other in tailorings[1:]:
        require_family(other, first.family)
    tokens = tuple(token for tailoring in tailorings for token in tailoring.tokens)
    checked_names([token.name for token in tokens], "tailorings")
    layout = first.family.lora_layout
    rank = rank or sum(tailoring.rank for tailoring in tailorings)
    lora: dict[str, Tensor] = {}
    kept = whole = 0.0
    for stem in sorted({stem for tailoring in tailorings for stem in layout.stems(tailoring.lora)}):
        layers = [
            _layer(layout, tailoring.lora, stem, strength)
            for tailoring, strength in zip(tailorings, strengths, strict=True)
            if stem + layout.down in tailoring.lora
        ]
        up, down, of_kept, of_whole = added(layers, rank)
        kept, whole = kept + of_kept, whole + of_whole
        lora |= {stem + layout.up: up, stem + layout.down: down}
        if layout.alpha:
            lora[stem + layout.alpha] = torch.tensor(float(rank))
    read = {tailoring.text_layer for tailoring in tailorings}
    text_layer = read.pop() if len(read) == 1 else None
    return Tailoring(first.family_name, lora, tokens, None, None, text_layer=text_layer), kept / whole if whole else 1.0


def added(layers: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The sum of products of two matrices each, as one product of a rank, the nearest there is (Eckart and Young 1936).

    The sum itself is never made: its singular values are those of a matrix as small as the ranks together.

    Args:
        layers: up (out, r, ...) and down (r, in, ...) of each; trailing sizes are of a convolution's kernel.
        rank: of the result; what is not needed is filled with zeros.

    Returns:
        up (out, rank, ...) and down (rank, in, ...), the sum of the squares of what is kept, and of all.
    """
    ups = torch.cat([up.flatten(1) for up, _ in layers], dim=1).double()
    downs = torch.cat([down.flatten(1) for _, down in layers], dim=0).double()
    out_basis, out_part = torch.linalg.qr(ups)
    in_basis, in_part = torch.linalg.qr(downs.T)
    left, values, right = torch.linalg.svd(out_part @ in_part.T)
    count = min(rank, len(values))
    roots = values[:count].sqrt()
    up = torch.zeros(len(ups), rank)
    down = torch.zeros(rank, downs.shape[1])
    up[:, :count] = (out_basis @ left[:, :count] * roots).float()
    down[:count] = (roots[:, None] * (right[:count] @ in_basis.T)).float()
    of_up, of_down = layers[0]
    squares = values.square()
    return (
        up.reshape(len(up), rank, *of_up.shape[2:]),
        down.reshape(rank, *of_down.shape[1:]),
        float(squares[:count].sum()),
        float(squares.sum()),
    )


def _layer(layout: LoraLayout, lora: Mapping[str, Tensor], stem: str, strength: float) -> tuple[Tensor, Tensor]:
    scale = strength * layout.scale(lora, stem)
    return lora[stem + layout.up].float() * scale, lora[stem + layout.down].float()
