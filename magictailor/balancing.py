"""The diffusion loss and DS-Bal, dual-stream balancing (MagicTailor, arXiv 2410.13370, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WARM_UP, DS_BAL = "warm-up", "DS-Bal"


def masked_error(prediction: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Eq. 2 and Eq. 7: squared error inside the masks, one value per sample, mean over the FULL area.

    With the noise (or velocity) as target it is L_diff, with the momentum network's prediction L_pres.

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
    belongs = _belongs(owners, count).to(losses.dtype)
    return (losses[:, None] * belongs).sum(0) / belongs.sum(0)


def _belongs(owners: Tensor, count: int) -> Tensor:
    """(B, N) bool, without the look at the values that one_hot takes on some devices."""
    return owners[:, None] == torch.arange(count, device=owners.device)


def balance(losses: Tensor, owners: Tensor, count: int, phase: str) -> tuple[Tensor, Tensor]:
    """Eq. 1, 6 and 7 as the weights that each sample's L_diff and L_pres have in the loss of a step.

    In the warm-up every sample counts alike and nothing is held. In DS-Bal, sample-wise min-max (Eq. 6) leaves only the
    reference with the largest mean L_diff, and selective preserving (Eq. 7) takes the mean, over every other reference,
    of the mean over its samples.

    Args:
        losses: L_diff of each sample, (B,); looked at in DS-Bal only.
        owners: (B,) index 0..count-1 of the reference a sample belongs to; every index occurs.
        count: N, number of references.
        phase: `WARM_UP` or `DS_BAL`.

    Returns:
        w_diff (B,), whose sum is 1, and w_pres (B,), whose sum is 1, or 0 where nothing is held; float32.
    """
    if phase == WARM_UP:
        return losses.new_full((len(owners),), 1.0 / len(owners)), losses.new_zeros(len(owners))
    samples = _belongs(owners, count).sum(0)[owners]
    worst = owners == mean_per_reference(losses, owners, count).argmax()
    return worst.float() / samples, (~worst).float() / (samples * max(count - 1, 1))


def update_momentum(momentum: Mapping[str, Tensor], online: Mapping[str, Tensor], beta: float) -> None:
    """Eq. 8: theta_mom <- beta * theta_mom + (1 - beta) * theta, in place, without gradients.

    Only what is trained has to be averaged: frozen weights are their own average.
    """
    with torch.no_grad():
        for name, average in momentum.items():
            average.lerp_(online[name].detach().to(average.dtype), 1.0 - beta)
