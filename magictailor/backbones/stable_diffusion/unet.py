"""The U-Net of a checkpoint: its shape read off its weights, and diffusers' module made of them."""

from __future__ import annotations

from collections.abc import Mapping

from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from ..module_weights import filled
from .family import UNetFamily
from .unet_shape import unet_config

LDM_UNET_PREFIX = "model.diffusion_model."


def build_unet(state: Mapping[str, Tensor], family: UNetFamily) -> UNet2DConditionModel:
    """The U-Net of a checkpoint, frozen.

    Args:
        state: in the layout of CompVis' latent-diffusion, keys from "input_blocks.0.0.weight".
        family: gives what the shapes do not tell.

    Raises:
        InputError: weights are missing or left over.
    """
    config = unet_config(state, family)
    converted = convert_ldm_unet_checkpoint({LDM_UNET_PREFIX + key: value for key, value in state.items()}, config)
    with init_empty_weights():
        unet = UNet2DConditionModel(**config)
    return filled(unet, converted, "model")
