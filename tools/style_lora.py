"""A small random LoRA in kohya's layout: stands for a style that a user has downloaded."""

from __future__ import annotations

import pathlib

from .checkpoint import SD1
from .random_weights import Weights, save_weights

RANK = 4
GAIN = 1.0  # of the change beside the small checkpoint's own layers
ATTENTIONS = ("down_blocks_0_attentions_0", "down_blocks_1_attentions_0", "up_blocks_2_attentions_0")


def make_style_lora(path: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write a LoRA for U-Net and text encoder of the small Stable Diffusion 1.x checkpoint."""
    weights, width = Weights(seed), SD1.unet.model_channels
    (encoder,) = SD1.text_encoders
    for attention in ATTENTIONS:
        for layer in ("attn1_to_v", "attn2_to_v"):
            source = SD1.unet.context if layer == "attn2_to_v" else width
            _add_layer(weights, f"lora_unet_{attention}_transformer_blocks_0_{layer}", source, width)
    for index in range(encoder.layers):
        name = f"lora_te_text_model_encoder_layers_{index}_self_attn_v_proj"
        _add_layer(weights, name, encoder.width, encoder.width)
    return save_weights(weights.tensors, path)


def _add_layer(weights: Weights, name: str, source: int, target: int) -> None:
    weights.layer(f"{name}.lora_down", (RANK, source), bias=False)
    weights.layer(f"{name}.lora_up", (target, RANK), gain=GAIN, bias=False)
