"""The networks that are measured, with random weights: weights do not change speed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from magictailor.backbones import family_named
from magictailor.backbones.stable_diffusion import UNetFamily

START, END = 49406, 49407


@dataclass(frozen=True)
class Shape:
    """A family's networks at full or at reduced size.

    Attributes:
        family: by its name in magictailor.backbones.
        unet: arguments of UNet2DConditionModel.
        text_layers: layers of each text encoder.
        resolution: at which it is measured unless told otherwise.
        textbook: whether the textbook trainer, which knows one text encoder, can be run on it.
    """

    family: str
    unet: dict[str, Any]
    text: tuple[dict[str, Any], ...]
    resolution: int
    textbook: bool = True
    autoencoder: dict[str, Any] = field(default_factory=lambda: dict(block_out_channels=(128, 256, 512, 512)))

    @property
    def described(self) -> UNetFamily:
        return family_named(self.family)


def _unet(channels: tuple[int, ...], layers: int, heads: int | tuple[int, ...], context: int, **more) -> dict[str, Any]:
    attends = [True] * (len(channels) - 1) + [False]
    return {
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "attention_head_dim": heads,
        "cross_attention_dim": context,
    } | more


def _text(width: int, layers: int, activation: str) -> dict[str, Any]:
    return {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "hidden_act": activation,
        "projection_dim": width,
        "bos_token_id": START,
        "eos_token_id": END,
    }


CLIP_L, CLIP_H, CLIP_G = (
    _text(768, 12, "quick_gelu"),
    _text(1024, 24, "gelu"),
    _text(1280, 32, "gelu"),
)

SHAPES = {
    "small": Shape("sd1", _unet((320,) * 4, 1, 8, 768), (CLIP_L,), 64),
    "sd15": Shape("sd1", _unet((320, 640, 1280, 1280), 2, 8, 768), (CLIP_L,), 512),
    "sd21": Shape(
        "sd2", _unet((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, use_linear_projection=True), (CLIP_H,), 512
    ),
    "sdxl": Shape(
        "sdxl",
        _unet((320, 640, 1280), 2, (5, 10, 20), 2048, use_linear_projection=True)
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (CLIP_L, CLIP_G),
        1024,
        textbook=False,
    ),
}


@dataclass(frozen=True)
class Parts:
    """Frozen networks with random weights."""

    unet: UNet2DConditionModel
    encoders: dict[str, nn.Module]
    autoencoder: AutoencoderKL


def make_parts(shape: Shape, dtype: torch.dtype, device: torch.device, text_attention: str = "sdpa") -> Parts:
    """The networks of a shape; the same seed at every call, so the same weights.

    Args:
        text_attention: of the text encoders; by default transformers' own choice.
    """
    levels = len(shape.autoencoder["block_out_channels"])
    # cast one by one: all of them at once in 32 bits need more room than a training step
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**shape.unet).to(dtype).requires_grad_(False)
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            **shape.autoencoder,
        )
        # what a step never runs need not be held
        autoencoder.decoder = autoencoder.post_quant_conv = nn.Identity()
        autoencoder = autoencoder.to(dtype).requires_grad_(False).eval()
        encoders = {}
        for description, text in zip(shape.described.text_encoders, shape.text, strict=True):
            # only the pooled encoder of a family has a projection
            kind = CLIPTextModelWithProjection if text is CLIP_G else CLIPTextModel
            encoder = kind(CLIPTextConfig(**text, attn_implementation=text_attention))
            encoders[description.key] = encoder.to(dtype).requires_grad_(False).eval()
    return Parts(unet, encoders, autoencoder)


def word_tokenizer(text: str) -> dict[str, list[int]]:
    """Some id for every word: which one does not change the work."""
    return {"input_ids": [START, *(1 + sum(map(ord, word)) % 40_000 for word in text.split()), END]}


def at_resolution(shape: Shape, resolution: int | None) -> Shape:
    return shape if resolution is None else dataclasses.replace(shape, resolution=resolution)
