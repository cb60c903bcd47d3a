"""How the attention on a few text positions is read off a network, without keeping a whole map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_MARK = 1024.0  # a power of two; small shares would lose digits in float16
_EXTRA = 8  # channels; fused kernels want multiples of it


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


def attend_and_share(query: Tensor, key: Tensor, value: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, and the probability some key positions get together, averaged over heads.

    No map is ever made, forward or backward: what is mixed by the probabilities gets channels that are zero but at
    these positions, and the fused kernel mixes them along with the values.

    Args:
        query: (B, heads, N, d).
        key, value: (B, heads, L, d).
        columns: (B, P) different positions 0..L-1.

    Returns:
        (B, heads, N, d), and (B, N) float32.
    """
    width = query.shape[-1]
    marks = value.new_zeros(len(value), 1, value.shape[2], _EXTRA)
    marks[..., 0] = marks[..., 0].scatter(-1, columns[:, None], _MARK)
    marked = torch.cat([value, marks.expand(-1, value.shape[1], -1, -1)], dim=-1)
    # kernels that keep no map need queries as wide as values
    query, key = F.pad(query, (0, _EXTRA)), F.pad(key, (0, _EXTRA))
    mixed = F.scaled_dot_product_attention(query, key, marked, scale=width**-0.5)
    return mixed[..., :width], mixed[..., width].float().mean(1) / _MARK


def coarse_size(size: Sequence[int], positions: int) -> tuple[int, int]:
    """Height and width of an attention map with so many positions, over latents of a size (h, w)."""
    height, width = size
    while height * width > positions:
        # a U-Net's way down rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


class AttentionCapture:
    """Collects the attention on watched positions over the layers the loss reads.

    Set `columns` before a forward pass and call `mean_map` after it. The columns stay set until the backward pass is
    over, because gradient checkpointing repeats the forward pass there.
    """

    def __init__(self) -> None:
        self._columns: Tensor | None = None
        self._collected: list[Tensor] = []

    def start(self, columns: Tensor) -> None:
        """Watch the positions columns[b] of the text for sample b; columns (B, P)."""
        self._columns = columns
        self._collected = []

    def mean_map(self, size: Sequence[int]) -> Tensor:
        """The average over layers and heads since `start`, summed over P; (B, h', w').

        Args:
            size: (h, w) of the latents that were looked at.
        """
        collected, self._collected = self._collected, []
        mean = torch.stack(collected).mean(0)
        return mean.unflatten(-1, coarse_size(size, mean.shape[1]))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Capture nothing inside the block."""
        columns, self._columns = self._columns, None
        try:
            yield
        finally:
            self._columns = columns

    @property
    def columns(self) -> Tensor | None:
        """What is watched (B, P); None while nothing is."""
        return self._columns

    def watch(self, query: Tensor, key: Tensor, scale: float) -> None:
        """Called by each watched layer: queries (B, heads, N, d) of pictures, keys (B, heads, L, d) of the text."""
        if self._columns is not None:
            shares = [token_column(query, key, columns, scale) for columns in self._columns.unbind(1)]
            self.collect(torch.stack(shares).sum(0) if len(shares) > 1 else shares[0])

    def collect(self, share: Tensor) -> None:
        """Called instead by a layer that knows what its watched positions get: (B, N) float32, summed over P."""
        self._collected.append(share)
