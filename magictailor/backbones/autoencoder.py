"""Autoencoders: from pictures to the latents a network is trained on, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn

from ..errors import InputError
from .module_weights import filled

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Tensor, noise: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """Sample latents of pictures.

    Args:
        autoencoder: a variational one is sampled; TAESD has one answer, already scaled for the family it was made for.
        images: (B, 3, R, R) in [-1, 1].
        noise: (B, C, h, w) standard normal.
        scale, shift: of the family; its latents are (autoencoder's - shift) * scale.

    Returns:
        (B, C, h, w) float32.
    """
    images = images.to(autoencoder.dtype)
    if isinstance(autoencoder, AutoencoderTiny):
        own = autoencoder.config
        latents = autoencoder.encode(images).latents.float()
        return latents * (scale / own.scaling_factor) + (own.shift_factor - shift) * scale
    posterior = autoencoder.encode(images).latent_dist
    return (posterior.mean.float() + posterior.std.float() * noise - shift) * scale


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] from latents (B, C, h, w) as the autoencoder gives them."""
    pictures = autoencoder.decode(latents.to(autoencoder.dtype)).sample.float()
    return ((pictures + 1.0) / 2.0).clamp(0.0, 1.0)


def latent_shape(autoencoder: Autoencoder, height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of H x W pictures."""
    blocks = getattr(autoencoder.config, "block_out_channels", None) or autoencoder.config.encoder_block_out_channels
    pixels = 2 ** (len(blocks) - 1)
    return autoencoder.config.latent_channels, height // pixels, width // pixels


def build_autoencoder(state: Mapping[str, Tensor], channels: int = 4) -> Autoencoder:
    """The encoding half of an autoencoder, frozen: Stable Diffusion's own, or TAESD.

    Args:
        state: LDM layout ("encoder.down.0...", and "quant_conv.weight" if it has one), or TAESD's
            ("taesd_encoder.0...", and "vae_scale", "vae_shift": those of the family it was made for, 1 and 0 if it does
            not say).
        channels: of the family's latents.

    Raises:
        InputError: it is neither, or its latents have other channels.
    """
    if "taesd_encoder.0.weight" in state:
        tiny = {
            key.replace("taesd_encoder.", "encoder.layers.", 1): value
            for key, value in state.items()
            if key.startswith("taesd_encoder.")
        }
        scale, shift = (
            state[key].item() if key in state else usual for key, usual in (("vae_scale", 1.0), ("vae_shift", 0.0))
        )
        _require_channels(tiny["encoder.layers.14.weight"].shape[0], channels)
        with init_empty_weights():
            autoencoder = AutoencoderTiny(latent_channels=channels, scaling_factor=scale, shift_factor=shift)
        autoencoder.decoder = nn.Identity()
        return filled(autoencoder, tiny, "vae").eval()
    if not {"encoder.conv_in.weight", "encoder.conv_out.weight"} <= state.keys():
        raise InputError("vae", "is not an autoencoder of Stable Diffusion, nor TAESD")
    _require_channels(_latent_channels(state), channels)
    return _autoencoder_kl(state, ("encoder", "quant_conv"))


def build_decoder(state: Mapping[str, Tensor]) -> AutoencoderKL:
    """The decoding half of Stable Diffusion's own autoencoder, frozen.

    Args:
        state: LDM layout, with "decoder.conv_in.weight".

    Raises:
        InputError: it is not such an autoencoder.
    """
    if "decoder.conv_in.weight" not in state or "encoder.conv_in.weight" not in state:
        raise InputError("vae", "is not a whole autoencoder of Stable Diffusion")
    return _autoencoder_kl(state, ("decoder", "post_quant_conv"))


def _latent_channels(state: Mapping[str, Tensor]) -> int:
    return state["encoder.conv_out.weight"].shape[0] // 2


def _require_channels(found: int, wanted: int) -> None:
    if found != wanted:
        raise InputError("vae", f"its latents have {found} channels, those of this family {wanted}")


def _autoencoder_kl(state: Mapping[str, Tensor], parts: tuple[str, ...]) -> AutoencoderKL:
    config = _autoencoder_config(state)
    converted = convert_ldm_vae_checkpoint(dict(state), config)
    with init_empty_weights():
        autoencoder = AutoencoderKL(**config)
    for name, _ in list(autoencoder.named_children()):
        if name not in parts:
            setattr(autoencoder, name, nn.Identity())
    kept = {key: value for key, value in converted.items() if key.partition(".")[0] in parts}
    return filled(autoencoder, kept, "vae").eval()


def _autoencoder_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
    channels = tuple(state[f"encoder.down.{n}.block.0.conv1.weight"].shape[0] for n in range(levels))
    blocks = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block."))
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": blocks,
        "latent_channels": _latent_channels(state),
        # from Stable Diffusion 3 on there are none
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }
