"""New rows of an embedding table, and taking entries of a tensor that several pictures share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExtendedEmbedding(nn.Module):
    """A frozen embedding table with a few trained rows after its end.

    Args:
        table: (V, width), not trained.
        rows: (N, width) first values of ids V..V+N-1; trained, float32.
    """

    def __init__(self, table: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(table, requires_grad=False)
        self.rows = nn.Parameter(rows.clone().float())

    def forward(self, ids: Tensor) -> Tensor:
        size = len(self.weight)
        old = F.embedding(ids.clamp_max(size - 1), self.weight)
        new = F.embedding((ids - size).clamp_min(0), self.rows).to(old.dtype)
        return torch.where((ids >= size).unsqueeze(-1), new, old)


def starting_rows(table: Tensor, pieces: Sequence[Sequence[int]], vectors: int, mean: bool) -> Tensor:
    """First values (N * V, width) of N words of V vectors each.

    Args:
        table: (vocabulary, width) of the known pieces.
        pieces: ids of those that each class word is cut into.
        vectors: V; the vectors of a word are its pieces in order, begun again where there are too few.
        mean: they are all the mean of the pieces instead.
    """
    rows = []
    for ids in pieces:
        known = table[list(ids)]
        rows += [known.float().mean(0).to(table.dtype) if mean else known[n % len(ids)] for n in range(vectors)]
    return torch.stack(rows)


def new_ids(names: Sequence[str], first: int, vectors: int) -> dict[str, list[int]]:
    """Ids of the vectors of each word, by its name.

    Args:
        first: of them all, the size of the table.
    """
    return {name: list(range(first + n * vectors, first + (n + 1) * vectors)) for n, name in enumerate(names)}


def chosen_rows(known: Tensor, chosen: Tensor) -> Tensor:
    """Entries (B, ...) of a tensor (N, ...) at indices (B,), which may repeat.

    Gradients of an entry taken twice are added in a fixed order, which plain indexing does not promise.
    """
    return F.embedding(chosen, known.flatten(1)).unflatten(1, known.shape[1:])
