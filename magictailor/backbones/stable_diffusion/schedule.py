"""The forward diffusion process a checkpoint was trained with (Ho et al. 2020; Salimans and Ho 2022 for v)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """What the loaded model expects.

    Attributes:
        alphas_cumprod: (T,) float32, from nearly 1 at t = 0 to nearly 0 at t = T-1.
        prediction_type: what the U-Net predicts: "epsilon", the noise, or "v_prediction", the velocity.
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"

    @classmethod
    def from_sigmas(cls, sigmas: Tensor, prediction_type: str = "epsilon") -> NoiseSchedule:
        """From noise levels (T,) relative to the signal's, sigma = sqrt((1 - a) / a), as ComfyUI keeps them."""
        return cls(1.0 / (sigmas.detach().clone().float().cpu() ** 2 + 1.0), prediction_type)

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps; latents and noise (B, C, h, w), timesteps (B,)."""
        signal, disturbance = self._coefficients(timesteps)
        return signal * latents + disturbance * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the U-Net should answer: eps, or v = sqrt(a_t) eps - sqrt(1 - a_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        signal, disturbance = self._coefficients(timesteps)
        return signal * noise - disturbance * latents

    def _coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return a.sqrt(), (1.0 - a).sqrt()


def scaled_linear_schedule(
    prediction_type: str = "epsilon",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    timesteps: int = 1000,
) -> NoiseSchedule:
    """The betas of Stable Diffusion: linear in their square roots (Rombach et al. 2022)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1.0 - betas, 0)
    # rounded as ComfyUI rounds it, so that a seed gives the same weights with and without it
    return NoiseSchedule.from_sigmas(((1.0 - alphas) / alphas).sqrt(), prediction_type)
