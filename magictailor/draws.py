"""All the randomness of one optimisation step, in one object that can be recorded and replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .config import TailorConfig


@dataclass(frozen=True)
class StepDraws:
    """Random numbers of one step for a batch of B pictures of R x R pixels and latents of C x h x w.

    Attributes:
        brightness, contrast, saturation: (B,) factors of the colour jitter, around 1.
        flip: (B,) bool, mirror this picture.
        pixel_noise: (B, 3, R, R) standard normal, G of Eq. 4.
        latent_noise: (B, C, h, w) standard normal, the sample of the autoencoder's posterior.
        noise: (B, C, h, w) standard normal, what the network has to find.
        timesteps: (B,), int64 or float as the model's family counts them.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    flip: Tensor
    pixel_noise: Tensor
    latent_noise: Tensor
    noise: Tensor
    timesteps: Tensor

    def to(self, device: torch.device) -> StepDraws:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on (seed, step) alone, so that a run can be taken up at any step."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))


def draw_step(
    config: TailorConfig,
    step: int,
    *,
    batch: int,
    resolution: int,
    latent_shape: tuple[int, int, int],
    draw_timesteps: Callable[[int, torch.Generator], Tensor],
    device: torch.device | str = "cpu",
) -> StepDraws:
    """Draw everything random of one step.

    The same config, step and device give the same numbers; a CPU and a GPU draw different ones.

    Args:
        config: gives the seed, the jitter's width and the probability of a flip.
        step: 1-based number of the step, over both phases.
        batch: B, number of reference pictures.
        resolution: R, side of a picture in pixels.
        latent_shape: (C, h, w).
        draw_timesteps: B, generator -> timesteps (B,), as the model's family is trained; see `Backbone`.
    """
    generator = step_generator(config.seed, step, device)

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, device=device)

    def jitter() -> Tensor:
        return 1.0 + config.color_jitter * (2.0 * uniform() - 1.0)

    return StepDraws(
        brightness=jitter(),
        contrast=jitter(),
        saturation=jitter(),
        flip=uniform() < config.flip_probability,
        pixel_noise=normal(3, resolution, resolution),
        latent_noise=normal(*latent_shape),
        noise=normal(*latent_shape),
        timesteps=draw_timesteps(batch, generator),
    )
