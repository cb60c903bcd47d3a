"""The attention of the U-Net: read by many pictures at once, and shown to what watches it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..attention_capture import AttentionCapture
from ..token_rows import chosen_rows

SHORT = 512  # keys; a longer row of plain attention costs more memory than it saves time


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, by the fastest way there is for such tensors.

    Args:
        query: (B, heads, N, d).
        key, value: (B, heads, L, d).

    Returns:
        (B, heads, N, d).
    """
    # on a CPU the fused kernel's gradient in half precision is several times slower than plain products
    if query.device.type == "cpu" and query.dtype != torch.float32 and key.shape[2] <= SHORT:
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return logits.softmax(-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Attention:
    """A diffusers attention processor that reads a prompt once for all pictures that share it.

    Args:
        capture: is shown queries and keys; None: this layer is not watched.
    """

    def __init__(self, capture: AttentionCapture | None) -> None:
        self.capture = capture

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        owners: Tensor | None = None,
    ) -> Tensor:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(read), attn.to_v(read)
        if encoder_hidden_states is not None and owners is not None:
            key, value = chosen_rows(key, owners), chosen_rows(value, owners)
        query, key, value = (states.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for states in (query, key, value))
        if self.capture is not None:
            self.capture.watch(query, key, attn.scale)
        mixed = attend(query, key, value)
        out_projection, dropout = attn.to_out
        projected: Tensor = dropout(out_projection(mixed.transpose(1, 2).flatten(2)))
        return projected


def watched_layers(unet: UNet2DConditionModel) -> list[str]:
    """Names of the cross-attention layers at the coarsest resolution of the down and up blocks (not the mid block)."""
    down = [n for n, block in enumerate(unet.down_blocks) if hasattr(block, "attentions")]
    up = [n for n, block in enumerate(unet.up_blocks) if hasattr(block, "attentions")]
    prefixes = (f"down_blocks.{down[-1]}.", f"up_blocks.{up[0]}.")
    return [name for name, _ in unet.named_modules() if name.startswith(prefixes) and name.endswith(".attn2")]


def watch_attention(unet: UNet2DConditionModel) -> AttentionCapture:
    """Give every layer an `Attention`; those that the loss needs show it."""
    capture = AttentionCapture()
    watched = watched_layers(unet)
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            module.set_processor(Attention(capture if name in watched else None))
    return capture
