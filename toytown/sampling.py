"""DDIM sampling (Song et al. 2021) with classifier-free guidance, for samples on the way and for measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .model import LATENT_SCALE, PROMPT_LENGTH, ToyTown, load_tokenizer
from .settings import GUIDANCE, SAMPLER_STEPS


@torch.no_grad()
def encoded_prompts(town: ToyTown, prompts: Sequence[str]) -> Tensor:
    """(B, 77, 96) hidden states."""
    ids = load_tokenizer()(list(prompts), padding="max_length", max_length=PROMPT_LENGTH, return_tensors="pt").input_ids
    return town.text_encoder(ids.to(town.text_encoder.device)).last_hidden_state


@torch.no_grad()
def sample(
    town: ToyTown, hidden: Tensor, seeds: Sequence[int], steps: int = SAMPLER_STEPS, guidance: float = GUIDANCE
) -> np.ndarray:
    """Draw one picture per row of `hidden`, (B, 64, 64, 3) uint8; the noise of each follows from its seed alone."""
    device = town.unet.device
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    empty = encoded_prompts(town, [""]).expand_as(hidden)
    noise = [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents = torch.cat(noise).to(device)
    for timestep in scheduler.timesteps:
        predicted = town.unet(torch.cat([latents, latents]), timestep.to(device), torch.cat([empty, hidden])).sample
        without, with_prompt = predicted.chunk(2)
        latents = scheduler.step(without + guidance * (with_prompt - without), timestep, latents).prev_sample
    pixels = town.autoencoder.decode(latents / LATENT_SCALE).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
