"""Diffusers and transformers modules from state dicts in memory, sharing the caller's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .errors import InputError
from .families import END_OF_TEXT, Family, TextEncoderDescription
from .tokens import TextEncoder

LDM_UNET_PREFIX = "model.diffusion_model."


def shared(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The tensor on that device in that dtype: the same memory where both already fit, otherwise a copy.

    A tensor made in inference mode cannot be saved for a backward pass; what is returned is an ordinary tensor on the
    same storage.
    """
    tensor = tensor.detach()
    if tensor.is_inference() and tensor.dtype == dtype and tensor.device == device:
        return torch.empty(0, dtype=dtype, device=device).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )
    return tensor.to(device=device, dtype=dtype)


def build_unet(
    state: Mapping[str, Tensor], family: Family, dtype: torch.dtype, device: torch.device
) -> UNet2DConditionModel:
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
    return _filled(unet, converted, "model", dtype, device)


def unet_config(state: Mapping[str, Tensor], family: Family) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` read off the shapes of an LDM state dict.

    Raises:
        InputError: blocks are missing, as in pruned models.
    """
    levels = _unet_levels(state)
    _require_whole(state, levels)
    channels = [level.channels for level in levels]
    attends = [level.depths[0] > 0 for level in levels]
    config = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": len(levels[0].depths),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "transformer_layers_per_block": tuple(max(level.depths[0], 1) for level in levels),
        "cross_attention_dim": family.cross_attention_width,
        # diffusers' name says dim, but it counts heads
        "attention_head_dim": family.attention_heads or tuple(c // family.head_width for c in channels),
        "use_linear_projection": state["middle_block.1.proj_in.weight"].ndim == 2,
    }
    if family.vector_width is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": family.size_embedding_width,
            "projection_class_embeddings_input_dim": family.vector_width,
        }
    return config


@dataclass
class _Level:
    """One resolution of a U-Net's way down: its width, and the transformer depth of each of its layers."""

    channels: int
    depths: list[int]


def _unet_levels(state: Mapping[str, Tensor]) -> list[_Level]:
    levels = [_Level(0, [])]
    number = 1
    while any(key.startswith(f"input_blocks.{number}.") for key in state):
        if f"input_blocks.{number}.0.op.weight" in state:
            levels.append(_Level(0, []))
        else:
            levels[-1].channels = state[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0]
            levels[-1].depths.append(_transformer_depth(state, f"input_blocks.{number}.1."))
        number += 1
    return levels


def _require_whole(state: Mapping[str, Tensor], levels: Sequence[_Level]) -> None:
    """The way up has to mirror the way down, with one layer more on each level."""
    layers = len(levels[0].depths)
    regular = layers > 0 and all(level.depths == level.depths[:1] * layers for level in levels)
    up = [level.depths[0] for level in reversed(levels) for _ in range(layers + 1)] if regular else []
    found = [_transformer_depth(state, f"output_blocks.{n}.1.") for n in range(len(up))]
    beyond = any(key.startswith(f"output_blocks.{len(up)}.") for key in state)
    middle = _transformer_depth(state, "middle_block.1.")
    if not regular or beyond or found != up or middle != max(levels[-1].depths[0], 1):
        raise InputError(
            "model",
            "its U-Net lacks blocks of its family, as pruned models such as SSD-1B, Vega and KOALA do; "
            "use a checkpoint of the full size",
        )


def _transformer_depth(state: Mapping[str, Tensor], prefix: str) -> int:
    depth = 0
    while f"{prefix}transformer_blocks.{depth}.attn2.to_k.weight" in state:
        depth += 1
    return depth


def build_text_encoder(
    state: Mapping[str, Tensor], description: TextEncoderDescription, dtype: torch.dtype, device: torch.device
) -> TextEncoder:
    """A CLIP text encoder, frozen; with its projection if the family shows the U-Net its pooled output.

    Args:
        state: keys with or without the "text_model." prefix; what the family does not use is left out.

    Raises:
        InputError: weights are missing.
    """
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    table = state.get("embeddings.token_embedding.weight")
    if table is None:
        raise InputError("clip", "has no CLIP text encoder of the kind this checkpoint's family uses")
    width = table.shape[1]
    layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers."))
    config = CLIPTextConfig(
        vocab_size=table.shape[0],
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // description.head_width,
        max_position_embeddings=state["embeddings.position_embedding.weight"].shape[0],
        hidden_act=description.activation,
        projection_dim=width,
        eos_token_id=END_OF_TEXT,
        attn_implementation=text_attention(device),
    )
    with init_empty_weights():
        encoder = (CLIPTextModelWithProjection if description.pooled else CLIPTextModel)(config)
    # with and without a projection, transformers 4 and 5 differ in where they write "text_model."
    bare = {key: key.removeprefix("text_model.") for key in encoder.state_dict()}
    named = {key: state[name] for key, name in bare.items() if name in state}
    return _filled(encoder, named, "clip", dtype, device).eval()


def text_attention(device: torch.device) -> str:
    """The implementation of attention, by transformers' name, that a text encoder trains fastest with."""
    # see magictailor.attention.attend
    return "eager" if device.type == "cpu" else "sdpa"


def build_autoencoder(
    state: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> AutoencoderKL | AutoencoderTiny:
    """The encoding half of an autoencoder, frozen: Stable Diffusion's own, or TAESD.

    Args:
        state: LDM layout ("encoder.down.0...", "quant_conv.weight"), or TAESD's ("taesd_encoder.0...", and "vae_scale":
            the latent_scale of the family it was made for, 1 if it does not say).

    Raises:
        InputError: it is neither.
    """
    if "taesd_encoder.0.weight" in state:
        tiny = {
            key.replace("taesd_encoder.", "encoder.layers.", 1): value
            for key, value in state.items()
            if key.startswith("taesd_encoder.")
        }
        scale = state.get("vae_scale")
        with init_empty_weights():
            autoencoder = AutoencoderTiny(scaling_factor=1.0 if scale is None else scale.item())
        autoencoder.decoder = nn.Identity()
        return _filled(autoencoder, tiny, "vae", dtype, device).eval()
    if "encoder.conv_in.weight" not in state or "quant_conv.weight" not in state:
        raise InputError("vae", "is not an autoencoder of Stable Diffusion 1.x, 2.x or SDXL, nor TAESD")
    return _autoencoder_kl(state, ("encoder", "quant_conv"), dtype, device)


def build_decoder(state: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> AutoencoderKL:
    """The decoding half of Stable Diffusion's own autoencoder, frozen.

    Args:
        state: LDM layout, with "decoder.conv_in.weight".

    Raises:
        InputError: it is not such an autoencoder.
    """
    if "decoder.conv_in.weight" not in state or "encoder.conv_in.weight" not in state:
        raise InputError("vae", "is not a whole autoencoder of Stable Diffusion 1.x, 2.x or SDXL")
    return _autoencoder_kl(state, ("decoder", "post_quant_conv"), dtype, device)


def _autoencoder_kl(
    state: Mapping[str, Tensor], parts: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> AutoencoderKL:
    config = _autoencoder_config(state)
    converted = convert_ldm_vae_checkpoint(dict(state), config)
    with init_empty_weights():
        autoencoder = AutoencoderKL(**config)
    for name, _ in list(autoencoder.named_children()):
        if name not in parts:
            setattr(autoencoder, name, nn.Identity())
    kept = {key: value for key, value in converted.items() if key.partition(".")[0] in parts}
    return _filled(autoencoder, kept, "vae", dtype, device).eval()


def _autoencoder_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
    channels = tuple(state[f"encoder.down.{n}.block.0.conv1.weight"].shape[0] for n in range(levels))
    blocks = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block."))
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": blocks,
        "latent_channels": state["quant_conv.weight"].shape[0] // 2,
    }


def _filled(
    module: nn.Module, state: Mapping[str, Tensor], field: str, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    placed = {key: shared(value, dtype, device) for key, value in state.items()}
    try:
        missing, unexpected = module.load_state_dict(placed, strict=False, assign=True)
    except RuntimeError as error:
        raise InputError(field, f"its weights do not have the shapes of its family: {str(error)[:300]}") from error
    if missing or unexpected:
        strange = ", ".join([f"missing {key}" for key in missing[:3]] + [f"unknown {key}" for key in unexpected[:3]])
        raise InputError(
            field,
            f"its weights are not those of its family ({len(missing)} missing, {len(unexpected)} unknown: {strange})",
        )
    return module.to(device).requires_grad_(False)
