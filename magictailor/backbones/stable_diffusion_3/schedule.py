"""The forward process Stable Diffusion 3 is trained with: straight paths from picture to noise.

Rectified flow as in Esser et al. 2024 (arXiv 2403.03206), sections 3.1 and 5.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TIMESTEPS = 1000
"""Timesteps are noise levels times this."""

USUAL_SHIFT = 3.0
"""Of all released models."""


@dataclass(frozen=True)
class RectifiedFlow:
    """What the loaded model expects.

    Attributes:
        shift: by which noise levels are moved towards noise; 1 leaves them.
    """

    shift: float = USUAL_SHIFT

    @property
    def prediction_type(self) -> Literal["flow"]:
        return "flow"

    def noise_levels(self, share: Tensor) -> Tensor:
        """Sigma of shares of the way from clean (0) to noise (1): shift * s / (1 + (shift - 1) * s)."""
        return self.shift * share / (1.0 + (self.shift - 1.0) * share)

    def drawn_timesteps(self, normal: Tensor) -> Tensor:
        """Timesteps of a training step from standard normal numbers: logit-normal with mean 0 and deviation 1, shifted.

        The paper weighs timesteps by how often it draws them, so that the loss has no weights.
        """
        return TIMESTEPS * self.noise_levels(normal.sigmoid())


def noised(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = (1 - sigma) x_0 + sigma eps; latents and noise (B, C, h, w), timesteps (B,)."""
    return torch.lerp(latents, noise, (timesteps / TIMESTEPS).view(-1, 1, 1, 1))


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """What the network should answer: v = dx_t / dsigma = eps - x_0."""
    return noise - latents
