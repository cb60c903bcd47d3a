"""How the attention on a few text positions is read off a network, without keeping a whole map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


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
