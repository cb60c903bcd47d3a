"""How alike pictures are: the measures of the paper's comparison, CLIP-I and DINO (pictures), CLIP-T (texts)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(some: Tensor, others: Tensor) -> Tensor:
    """(B, K), of each of B vectors with each of K."""
    return F.normalize(some, dim=1) @ F.normalize(others, dim=1).T


Alike = Callable[[Tensor, Tensor], Tensor]
"""(B, E) and (K, E) -> (B, K), 1 for the same."""


def likeness(drawn: Tensor, references: Tensor, alike: Alike = cosines) -> Tensor:
    """CLIP-I or DINO of drawn pictures: the mean cosine with all references.

    Args:
        drawn: (B, E).
        references: (K, E).
        alike: in place of the cosine, for measures that have another one.

    Returns:
        (B,) from -1 to 1.
    """
    return alike(drawn, references).mean(dim=1)


def nearest(drawn: Tensor, references: Tensor, alike: Alike = cosines) -> Tensor:
    """The cosine with the most alike of the references: what is copied is copied from one of them.

    Args:
        drawn: (B, E).
        references: (K, E).
        alike: see `likeness`.

    Returns:
        (B,) from -1 to 1.
    """
    return alike(drawn, references).amax(dim=1)


def agreement(drawn: Tensor, texts: Tensor) -> Tensor:
    """CLIP-T: the cosine of each picture (B, E) with its own text (B, E); (B,)."""
    return F.cosine_similarity(drawn, texts, dim=1)


def spread(references: Tensor, alike: Alike = cosines) -> float | None:
    """The mean cosine of references (K, E) among themselves, which a drawn picture can hardly exceed; None of one."""
    count = len(references)
    if count < 2:
        return None
    total = alike(references, references).sum() - count
    return float(total / (count * (count - 1)))


def standardised(values: Tensor) -> Tensor:
    """Values (B,) with a mean of 0 and a deviation of 1; zeros where all are alike. NaN is left out and stays NaN."""
    centred = values - values.nanmean()
    deviation = centred.square().nanmean().sqrt()
    return centred * 0.0 if deviation < 1e-9 else centred / deviation


def merit(columns: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """What pictures are ranked by: the weighted sum of standardised columns (B,), so that no unit counts more."""
    return torch.stack([weights.get(name, 0.0) * standardised(values) for name, values in columns.items()]).sum(dim=0)
