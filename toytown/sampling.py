"""Drawing with the toy town model alone, without LoRA and tokens: for samples on the way and for measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from magictailor.backbones.stable_diffusion.backbone import ddim_scheduler
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.sampling import denoise

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
    noise = [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    empty = encoded_prompts(town, [""]).expand_as(hidden)
    prompts = torch.cat([empty, hidden])
    latents = denoise(
        lambda noisy, timestep: town.unet(noisy, timestep, prompts).sample,
        ddim_scheduler(scaled_linear_schedule()),
        torch.cat(noise).to(hidden.device),
        steps=steps,
        guidance=guidance,
    )
    pixels = town.autoencoder.decode(latents / LATENT_SCALE).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
