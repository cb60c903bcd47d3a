"""Drawing with a model that is being trained, or has been: DDIM (Song et al. 2021) with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from .draws import step_generator
from .latents import latent_shape
from .model import TailorModel
from .noise import NoiseSchedule


def ddim_scheduler(schedule: NoiseSchedule) -> DDIMScheduler:
    """Diffusers' DDIM as Stable Diffusion uses it, on the noise levels and prediction type of a model."""
    kept = schedule.alphas_cumprod.double().cpu()
    betas = 1.0 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
    return DDIMScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=betas.tolist(),
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=schedule.prediction_type,
    )


@torch.no_grad()
def sample(
    model: TailorModel,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    negative_prompt: str = "",
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Latents of one picture for each prompt. Leaves the model, its gradients and its attention capture as they were.

    Args:
        prompts: B texts; `<v0>`, `<v1>` ... stand for what was learned.
        noise: (B, C, h, w) standard normal, all the randomness there is.
        steps: number of DDIM steps.
        guidance: how closely to follow the prompts; 1 ignores the negative prompt.
        after_step: called after every step; may raise to stop.

    Returns:
        (B, C, h, w) float32 as the U-Net sees them; divided by the family's latent_scale they can be decoded.

    Raises:
        InputError: a prompt is too long; names "prompt".
    """
    latents = noise.to(model.device, torch.float32)
    with model.capture.paused(), model.autocast():
        known = model.prompts.encode([negative_prompt] * len(prompts) + list(prompts))
        conditions = known.conditions(whole_picture(model, noise, 2 * len(prompts)))
        return ddim(
            model.unet, model.schedule, latents, conditions, steps=steps, guidance=guidance, after_step=after_step
        )


@torch.no_grad()
def ddim(
    unet: UNet2DConditionModel,
    schedule: NoiseSchedule,
    latents: Tensor,
    conditions: Mapping[str, Any],
    *,
    steps: int,
    guidance: float,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Denoise latents from pure noise on.

    Args:
        latents: (B, C, h, w) standard normal, on the U-Net's device.
        conditions: keyword arguments of the U-Net for 2B pictures, of which the first half is what to move away from.
        steps, guidance, after_step: see `sample`.

    Returns:
        (B, C, h, w) float32 as the U-Net sees them.
    """
    scheduler = ddim_scheduler(schedule)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        answer = unet(torch.cat([latents, latents]), timestep, **conditions).sample.float()
        unguided, guided = answer.chunk(2)
        latents = scheduler.step(torch.lerp(unguided, guided, guidance), timestep, latents).prev_sample
        after_step()
    return latents


def whole_picture(model: TailorModel, latents: Tensor, count: int) -> Tensor:
    """What SDXL is told of pictures (count, 6) that are drawn whole."""
    pixels = _latent_pixels(model)
    height, width = (float(side * pixels) for side in latents.shape[-2:])
    return torch.tensor([[height, width, 0.0, 0.0, height, width]], device=model.device).repeat(count, 1)


def _latent_pixels(model: TailorModel) -> int:
    """Pixels that one latent stands for, along a side."""
    resolution = model.family.resolution
    return resolution // latent_shape(model.autoencoder, resolution)[-1]


@dataclass(frozen=True)
class Sketcher:
    """Draws pictures to look at while or after training.

    Attributes:
        decode: latents (B, C, h, w) as the autoencoder gives them -> pictures (B, 3, H, W) in [0, 1].
        resolution: side of the pictures in pixels.
        after_step: called after every DDIM step; may raise to stop.
        steps: fewer than for a picture to keep.
    """

    model: TailorModel
    decode: Callable[[Tensor], Tensor]
    resolution: int
    after_step: Callable[[], None] = lambda: None
    steps: int = 20

    def noise(self, seed: int) -> Tensor:
        """(1, C, h, w); the same seed gives the same noise on every device."""
        shape = latent_shape(self.model.autoencoder, self.resolution)
        return torch.randn(1, *shape, generator=step_generator(seed, 0)).to(self.model.device)

    def latents(self, prompt: str, seed: int) -> Tensor:
        """(1, C, h, w), as the U-Net sees them."""
        return sample(self.model, [prompt], self.noise(seed), steps=self.steps, after_step=self.after_step)

    @torch.no_grad()
    def picture(self, latents: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] on the CPU."""
        return self.decode(latents / self.model.family.latent_scale)[0].float().cpu().clamp(0.0, 1.0)
