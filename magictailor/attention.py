"""The attention of the U-Net, how one token's column of a few of its maps is captured, and the loss on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from .tokens import chosen_rows

SHORT = 512  # keys; a longer row of plain attention costs more memory than it saves time


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


def token_column(query: Tensor, key: Tensor, columns: Tensor, scale: float) -> Tensor:
    """Attention probability that one key position gets from every query, averaged over heads.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, L, d).
        columns: (B,) position 0..L-1 for each sample.
        scale: factor of the logits, 1 / sqrt(d).

    Returns:
        (B, N) float32.
    """
    logits = (query @ key.transpose(-1, -2)).float() * scale  # (B, heads, N, L)
    index = columns.view(-1, 1, 1, 1).expand(*logits.shape[:3], 1)
    column = logits.gather(-1, index).squeeze(-1) - logits.logsumexp(-1)
    return column.exp().mean(1)


def coarse_size(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """Height and width of an attention map with so many positions, over latents of a size (h, w)."""
    height, width = size
    while height * width > positions:
        # the U-Net's way down rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


class AttentionCapture:
    """Collects one token's attention over the layers the loss reads.

    Set `columns` before a forward pass and call `mean_map` after it. The columns stay set until the backward pass is
    over, because gradient checkpointing repeats the forward pass there.
    """

    def __init__(self) -> None:
        self._columns: Tensor | None = None
        self._collected: list[Tensor] = []

    def start(self, columns: Tensor) -> None:
        """Watch position columns[b] of the prompt for sample b; columns (B,)."""
        self._columns = columns
        self._collected = []

    def mean_map(self) -> Tensor:
        """The average over layers and heads since `start`, (B, h, w) with h = w."""
        collected, self._collected = self._collected, []
        mean = torch.stack(collected).mean(0)
        side = round(mean.shape[1] ** 0.5)
        return mean.view(-1, side, side)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Capture nothing inside the block."""
        columns, self._columns = self._columns, None
        try:
            yield
        finally:
            self._columns = columns

    def watch(self, query: Tensor, key: Tensor, scale: float) -> None:
        """Called by each watched layer."""
        if self._columns is not None:
            self._collected.append(token_column(query, key, self._columns, scale))


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

    def __init__(self, capture: AttentionCapture | None):
        self.capture = capture

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, owners=None):
        # on a GPU layer norms answer in 32 bits; cast once, not for each projection and its LoRA
        hidden_states = hidden_states.to(attn.to_q.weight.dtype)
        crosses = encoder_hidden_states is not None
        read = encoder_hidden_states if crosses else hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(read), attn.to_v(read)
        if crosses and owners is not None:
            key, value = chosen_rows(key, owners), chosen_rows(value, owners)
        query, key, value = (states.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for states in (query, key, value))
        if self.capture is not None:
            self.capture.watch(query, key, attn.scale)
        mixed = attend(query, key, value)
        out_projection, dropout = attn.to_out
        return dropout(out_projection(mixed.transpose(1, 2).flatten(2)))


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
