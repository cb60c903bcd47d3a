"""The loss that keeps a token's attention on its mask (MagicTailor, arXiv 2410.13370, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_loss(attention: Tensor, masks: Tensor) -> Tensor:
    """L_attn: squared error between a token's attention and its mask, one value per sample.

    Args:
        attention: A(p_n), (B, h, w), not negative; divided here by its own maximum per image.
        masks: M'', (B, h, w) in [0, 1].

    Returns:
        (B,).
    """
    return (scaled_to_one(attention) - masks).square().mean(dim=(1, 2))


def scaled_to_one(attention: Tensor) -> Tensor:
    """Divide each map (B, h, w) by its own maximum."""
    return attention / attention.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
