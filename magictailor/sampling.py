"""Drawing with a model that is being trained, or has been, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .backbones.protocol import Backbone, Scheduler
from .draws import step_generator
from .errors import InputError


@torch.no_grad()
def sample(
    model: Backbone,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    negative_prompt: str = "",
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Latents of one picture for each prompt, by the scheduler of the model's family. Leaves the model as it was.

    Args:
        prompts: B texts; `<v0>`, `<v1>` ... stand for what was learned.
        noise: (B, C, h, w) standard normal, all the randomness there is.
        steps: of sampling.
        guidance: how closely to follow the prompts; 1 ignores the negative prompt.
        after_step: called after every step; may raise to stop.

    Returns:
        (B, C, h, w) float32 as the network sees them; `Backbone.unscaled` makes them what can be decoded.

    Raises:
        InputError: a prompt is too long; names "prompt".
    """
    latents = noise.to(model.device, torch.float32)
    known = model.encode_prompts([negative_prompt] * len(prompts) + list(prompts))
    sizes = whole_picture(model, noise, 2 * len(prompts))

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        return model.predict(noisy, timestep, known, sizes=sizes).answer

    return denoise(predict, model.scheduler(), latents, steps=steps, guidance=guidance, after_step=after_step)


@torch.no_grad()
def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    latents: Tensor,
    *,
    steps: int,
    guidance: float,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Denoise latents from pure noise on.

    Args:
        predict: latents (2B, C, h, w) and a timestep () -> what a network makes of them, of which the first half is
            what to move away from.
        latents: (B, C, h, w) float32 standard normal, on the network's device.
        steps, guidance, after_step: see `sample`.

    Returns:
        (B, C, h, w) float32 as the network sees them.
    """
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        unguided, guided = predict(torch.cat([latents, latents]), timestep).float().chunk(2)
        latents = scheduler.step(torch.lerp(unguided, guided, guidance), timestep, latents).prev_sample
        after_step()
    return latents


def whole_picture(model: Backbone, latents: Tensor, count: int) -> Tensor:
    """What some families are told of pictures (count, 6) that are drawn whole."""
    pixels = latent_pixels(model)
    height, width = (float(side * pixels) for side in latents.shape[-2:])
    return torch.tensor([[height, width, 0.0, 0.0, height, width]], device=model.device).repeat(count, 1)


def require_numbers(picture: Tensor, latents: Tensor) -> None:
    """Refuse a picture that would be seen as black.

    Args:
        picture: of any shape.
        latents: it was decoded from.

    Raises:
        InputError: it holds NaN or infinite values; names "vae", or "model" if the latents do already.
    """
    if not torch.isfinite(picture).all():
        made_by_vae = bool(torch.isfinite(latents).all())
        raise InputError(
            "vae" if made_by_vae else "model", "what it computes is not finite, and would be seen as a black picture"
        )


def latent_pixels(model: Backbone) -> int:
    """Pixels that one latent stands for, along a side."""
    resolution = model.family.resolution
    return resolution // model.latent_shape(resolution, resolution)[-1]


def seeded_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """(1, C, h, w) standard normal, the same as ComfyUI's for that seed."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def picture_size(model: Backbone, width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture that a model can draw; 0 stands for what it was trained at.

    Raises:
        InputError: one is too small, or not a multiple of what a latent stands for; names "width" or "height".
    """
    pixels, usual = latent_pixels(model), model.family.resolution
    for name, side in (("width", width or usual), ("height", height or usual)):
        if side < 64 or side % pixels:
            raise InputError(name, f"is {side}; it has to be a multiple of {pixels}, from 64 on")
    return width or usual, height or usual


@dataclass(frozen=True)
class Sketcher:
    """Draws pictures to look at while or after training.

    Attributes:
        decode: latents (B, C, h, w) as the autoencoder gives them -> pictures (B, 3, H, W) in [0, 1].
        resolution: side of the pictures in pixels.
        after_step: called after every step of sampling; may raise to stop.
        steps: fewer than for a picture to keep.
    """

    model: Backbone
    decode: Callable[[Tensor], Tensor]
    resolution: int
    after_step: Callable[[], None] = lambda: None
    steps: int = 20

    def noise(self, seed: int) -> Tensor:
        """(1, C, h, w); the same seed gives the same noise on every device."""
        shape = self.model.latent_shape(self.resolution, self.resolution)
        return torch.randn(1, *shape, generator=step_generator(seed, 0)).to(self.model.device)

    def latents(self, prompt: str, seed: int) -> Tensor:
        """(1, C, h, w), as the network sees them."""
        return sample(self.model, [prompt], self.noise(seed), steps=self.steps, after_step=self.after_step)

    @torch.no_grad()
    def picture(self, latents: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] on the CPU.

        Raises:
            InputError: see `require_numbers`.
        """
        picture = self.decode(self.model.unscaled(latents))[0].float().cpu()
        require_numbers(picture, latents)
        return picture.clamp(0.0, 1.0)
