"""Writes the toy town checkpoint in the layout of a Stable Diffusion 1.x file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from tools import checkpoint

from .model import AUTOENCODER_PREFIX, TEXT_PREFIX, UNET_PREFIX, ToyTown

LAYOUT = checkpoint.Family(
    unet=checkpoint.UNet(context=96, model_channels=64, channel_mult=(1, 2), transformer_depth=(1, 1)),
    text_encoders=(),
    autoencoder=checkpoint.Autoencoder(channels=64, channel_mult=(1, 1, 1), res_blocks=1),
)


def save_checkpoint(town: ToyTown, path: pathlib.Path, metadata: Mapping[str, str]) -> None:
    """Write all weights as fp16."""
    shapes = {key: tuple(w.shape) for key, w in checkpoint.family_state_dict(LAYOUT).items()}
    tensors = {
        **_in_ldm_layout(town.unet, convert_ldm_unet_checkpoint, UNET_PREFIX, shapes),
        **_in_ldm_layout(town.autoencoder, convert_ldm_vae_checkpoint, AUTOENCODER_PREFIX, shapes),
        **{TEXT_PREFIX + key.removeprefix("text_model."): w for key, w in town.text_encoder.state_dict().items()},
    }
    partial = path.with_name(path.name + ".partial")
    save_file({key: w.detach().half().contiguous() for key, w in tensors.items()}, partial, dict(metadata))
    partial.replace(path)


def _in_ldm_layout(
    module: nn.Module, convert: Callable, prefix: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """A diffusers module's weights under CompVis' names, which numbered tensors find out in diffusers' converter."""
    keys = [key for key in shapes if key.startswith(prefix)]
    # the U-Net's converter wants the prefix, the autoencoder's does not
    cut = "" if convert is convert_ldm_unet_checkpoint else prefix
    arrived = convert(
        {key.removeprefix(cut): torch.full(shapes[key], float(n)) for n, key in enumerate(keys)}, module.config
    )
    state = module.state_dict()
    if set(arrived) != set(state):
        raise ValueError(f"names without a counterpart: {sorted(set(arrived) ^ set(state))[:5]}")
    named = {keys[int(marker.flatten()[0])]: state[name] for name, marker in arrived.items()}
    return {key: w.reshape(shapes[key]) for key, w in named.items()}
