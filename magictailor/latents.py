"""From pictures to the latents a U-Net is trained on, and back."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor


@torch.no_grad()
def encode(autoencoder: AutoencoderKL | AutoencoderTiny, images: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Sample latents of pictures.

    Args:
        autoencoder: a variational one is sampled; TAESD has one answer, already scaled for the family it was made for.
        images: (B, 3, R, R) in [-1, 1].
        noise: (B, C, h, w) standard normal.
        scale: the family's latent_scale.

    Returns:
        (B, C, h, w) float32.
    """
    images = images.to(autoencoder.dtype)
    if isinstance(autoencoder, AutoencoderTiny):
        return autoencoder.encode(images).latents.float() * (scale / autoencoder.config.scaling_factor)
    posterior = autoencoder.encode(images).latent_dist
    return (posterior.mean.float() + posterior.std.float() * noise) * scale


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor, scale: float) -> Tensor:
    """Pictures (B, 3, R, R) in [0, 1] from latents (B, C, h, w) as the U-Net sees them.

    Args:
        scale: the family's latent_scale.
    """
    pictures = autoencoder.decode((latents / scale).to(autoencoder.dtype)).sample.float()
    return ((pictures + 1.0) / 2.0).clamp(0.0, 1.0)


def latent_shape(autoencoder: AutoencoderKL | AutoencoderTiny, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of R x R pictures."""
    blocks = getattr(autoencoder.config, "block_out_channels", None) or autoencoder.config.encoder_block_out_channels
    side = resolution // 2 ** (len(blocks) - 1)
    return autoencoder.config.latent_channels, side, side
