"""The diffusion loss and DS-Bal, dual-stream balancing (MagicTailor, arXiv 2410.13370, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def masked_error(prediction: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Eq. 2 and Eq. 7: squared error inside the masks, one value per sample, mean over the FULL area.

    With the noise (or velocity) as target it is L_diff, with the momentum U-Net's prediction L_pres.

    Args:
        prediction, target: (B, C, h, w).
        masks: (B, 1, h, w) in [0, 1].

    Returns:
        (B,) in float32.
    """
    difference = (target.float() - prediction.float()) * masks.float()
    return difference.square().mean(dim=(1, 2, 3))


def mean_per_reference(losses: Tensor, owners: Tensor, count: int) -> Tensor:
    """Average per-sample losses over the samples of each reference.

    Args:
        losses: (B,).
        owners: (B,) index 0..count-1 of the reference a sample belongs to; every index occurs.
        count: N, number of references.

    Returns:
        (N,).
    """
    belongs = torch.nn.functional.one_hot(owners, count).to(losses.dtype)  # (B, N)
    return (losses[:, None] * belongs).sum(0) / belongs.sum(0)


def largest(losses: Tensor) -> Tensor:
    """Eq. 6, sample-wise min-max: which of the references' losses (N,) is the largest, (); it alone is minimised."""
    return losses.argmax(dim=0)


def min_max_weights(owners: Tensor, worst: int, count: int) -> Tensor:
    """Eq. 6 as weights (B,) of per-sample L_diff: their weighted sum is the mean over the samples of `worst`."""
    samples = torch.bincount(owners, minlength=count)
    return (owners == worst).float() / samples[worst]


def preserving_weights(owners: Tensor, worst: int, count: int) -> Tensor:
    """Eq. 7, selective preserving, as weights (B,) of per-sample L_pres.

    Their weighted sum is the mean, over every reference but `worst`, of the mean over its samples; 0 without others.
    """
    samples = torch.bincount(owners, minlength=count)
    return (owners != worst).float() / (samples[owners] * max(count - 1, 1))


def update_momentum(momentum: Mapping[str, Tensor], online: Mapping[str, Tensor], beta: float) -> None:
    """Eq. 8: theta_mom <- beta * theta_mom + (1 - beta) * theta, in place, without gradients.

    Only what is trained has to be averaged: frozen weights are their own average.
    """
    with torch.no_grad():
        for name, average in momentum.items():
            average.lerp_(online[name].detach().to(average.dtype), 1.0 - beta)
