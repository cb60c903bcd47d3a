"""DM-Deg, dynamic masked degradation (MagicTailor, arXiv 2410.13370, section 3.2)."""

from __future__ import annotations

from torch import Tensor


def degradation_weight(step: int, total_steps: int, alpha_init: float, gamma: float) -> float:
    """Eq. 5: the weight alpha_d of the noise at step d of D, alpha_init at first and 0 at the end.

    Args:
        step: d, 0..total_steps.
        total_steps: D, over both phases.
        alpha_init: weight at d = 0.
        gamma: the larger, the later the weight falls.
    """
    return alpha_init * (1.0 - (step / total_steps) ** gamma)


def degrade(images: Tensor, masks: Tensor, noise: Tensor, weight: float) -> Tensor:
    """Eq. 4: add Gaussian noise outside the masks.

    The clamp to the range of an image is the released program's; Eq. 4 has none.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        masks: (B, 1, H, W) in [0, 1], 1 = learn, stays clean.
        noise: G, (B, 3, H, W), standard normal.
        weight: alpha_d of Eq. 5.

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    return (images + weight * noise * (1.0 - masks)).clamp(-1.0, 1.0)
