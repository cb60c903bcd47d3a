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


def largest(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 6, sample-wise min-max: the largest of the references' losses and which it is.

    Args:
        losses: (N,) L_diff of each reference.

    Returns:
        the loss to minimise, (), and the index of its reference, ().
    """
    return losses.max(dim=0)


def preserving(losses: Tensor, worst: int) -> Tensor:
    """Eq. 7, selective preserving: mean of L_pres over every reference but the one being improved.

    Args:
        losses: (N,) L_pres of each reference; the entry of `worst` is not read.
        worst: index of the reference with the largest L_diff.
    """
    return torch.cat([losses[:worst], losses[worst + 1 :]]).mean()


def update_momentum(momentum: Mapping[str, Tensor], online: Mapping[str, Tensor], beta: float) -> None:
    """Eq. 8: theta_mom <- beta * theta_mom + (1 - beta) * theta, in place, without gradients.

    Only what is trained has to be averaged: frozen weights are their own average.
    """
    with torch.no_grad():
        for name, average in momentum.items():
            average.lerp_(online[name].detach().to(average.dtype), 1.0 - beta)
