"""A small random ControlNet in lllyasviel's layout, for the small Stable Diffusion 1.x checkpoint."""

from __future__ import annotations

import pathlib

from .checkpoint import SD1, add_unet_encoder
from .random_weights import Weights, save_torch

PREFIX = "control_model."
# channels of the convolutions that bring the control picture to the size of the latents; the host fixes their strides
HINT_CHANNELS = (16, 16, 32, 32, 96, 96, 256)
ZERO_GAIN = 0.5  # a trained one's are no longer zero either


def make_controlnet(path: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write a .pth (fp16) that the stock ControlNetLoader takes for a Stable Diffusion 1.x ControlNet."""
    weights = Weights(seed)
    skips, _ = add_unet_encoder(weights, PREFIX, SD1.unet)
    channels = 3
    widths = (*HINT_CHANNELS, SD1.unet.model_channels)
    for index, width in enumerate(widths):
        # SiLU halves what it lets through
        weights.layer(f"{PREFIX}input_hint_block.{2 * index}", (width, channels, 3, 3), gain=2.0)
        channels = width
    for index, width in enumerate(skips):
        weights.layer(f"{PREFIX}zero_convs.{index}.0", (width, width, 1, 1), gain=ZERO_GAIN)
    weights.layer(PREFIX + "middle_block_out.0", (skips[-1], skips[-1], 1, 1), gain=ZERO_GAIN)
    return save_torch(weights.tensors, path)
