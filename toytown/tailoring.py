"""Tailoring in toy town with the library alone, without a host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from magictailor import backbones
from magictailor.backbones.stable_diffusion.backbone import UNetBackbone, assemble
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.config import TailorConfig
from magictailor.reference import Reference
from magictailor.sampling import sample

from .model import LATENT_SCALE, ToyTown, family, load_checkpoint, load_tokenizer
from .pairs import Pair, masked_pictures
from .settings import GUIDANCE, SAMPLER_STEPS


def references(pair: Pair) -> list[Reference]:
    """Concept and component as the library takes them."""
    return [
        Reference(
            word,
            tuple(torch.from_numpy(picture.pixels).permute(2, 0, 1).float() / 255 for picture, _ in pictures),
            tuple(torch.from_numpy(mask).float() for _, mask in pictures),
        )
        for word, pictures in zip(pair.class_words, masked_pictures(pair), strict=True)
    ]


def trainable(class_words: Sequence[str], config: TailorConfig, town: ToyTown | None = None) -> UNetBackbone:
    """The toy town model with a fresh LoRA and fresh tokens; its sampler works before training too.

    Args:
        town: given away; None loads the shipped one.
    """
    town = town or load_checkpoint()
    return assemble(
        family=family(backbones),
        unet=town.unet,
        encoders={"clip_l": town.text_encoder},
        autoencoder=town.autoencoder,
        schedule=scaled_linear_schedule(),
        tokenizer=load_tokenizer(),
        class_words=class_words,
        config=config,
        device=torch.device("cpu"),
    )


@torch.no_grad()
def drawn(
    model: UNetBackbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = SAMPLER_STEPS,
    guidance: float = GUIDANCE,
) -> np.ndarray:
    """One picture for each prompt, (B, 64, 64, 3) uint8; the noise of each follows from its seed alone."""
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = sample(model, prompts, noise, steps=steps, guidance=guidance)
    pixels = model.autoencoder.decode(latents / LATENT_SCALE).sample
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
