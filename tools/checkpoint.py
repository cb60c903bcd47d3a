"""Small checkpoints that the stock loaders take for real ones: genuine key layout, few blocks, random weights.

A `Family` describes a model family by the sizes its loader looks at; `family_state_dict` turns any description into
weights. Purely random weights would give saturated noise, so the residual branches are kept small beside a *signal
path* that carries the input to the output: the autoencoder returns a blocky copy of its picture and the U-Net
predicts mostly its own input, which is a fair guess of the noise. The residual branches, text conditioning included,
stay random and reach the output.

Layouts: CompVis `ldm` (U-Net and autoencoder), transformers (CLIP text encoder).
"""

from __future__ import annotations

import dataclasses
import pathlib

import torch

from .random_weights import Weights, averaged, centred, save_weights, signal_pairs

RESIDUAL_GAIN = 0.25  # standard deviation of a residual branch beside a signal of about 1
TEXT_GAIN = 2.5  # cross-attention is stronger than self-attention, so that every word of a prompt shows
LATENT_SCALE = 0.18215  # stored latents of SD 1.x have a standard deviation of about 1 / 0.18215


@dataclasses.dataclass(frozen=True)
class UNet:
    """Sizes of an ldm U-Net. `transformer_depth` is per level; 0 means a level without cross-attention."""

    context: int
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 1, 1, 1)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    linear_projection: bool = False
    res_blocks: int = 1
    latent_channels: int = 4


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Sizes of a CLIP text encoder in transformers' layout below `prefix`."""

    prefix: str
    width: int
    layers: int
    vocabulary: int = 49408
    positions: int = 77


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Sizes of an ldm autoencoder. The host fixes all of them for SD 1.x and 2.x."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    latent_channels: int = 4


@dataclasses.dataclass(frozen=True)
class Family:
    unet: UNet
    text_encoders: tuple[TextEncoder, ...]
    autoencoder: Autoencoder


SD1 = Family(
    unet=UNet(context=768),
    text_encoders=(TextEncoder("cond_stage_model.transformer.text_model.", width=768, layers=12),),
    autoencoder=Autoencoder(),
)


def make_sd1_checkpoint(path: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write a Stable Diffusion 1.x checkpoint (fp16, about 570 MB) that the stock CheckpointLoaderSimple recognises."""
    return save_weights(family_state_dict(SD1, seed), path)


def family_state_dict(family: Family, seed: int = 0) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint of `family`, fp16 on the CPU. The same seed gives the same weights."""
    weights = Weights(seed)
    _add_unet(weights, "model.diffusion_model.", family.unet)
    for encoder in family.text_encoders:
        _add_text_encoder(weights, encoder)
    _add_autoencoder(weights, "first_stage_model.", family.autoencoder)
    return weights.tensors


# --- U-Net


def _add_unet(weights: Weights, prefix: str, unet: UNet) -> None:
    base, embedding = unet.model_channels, 4 * unet.model_channels
    way_in, way_out = signal_pairs(weights, base, unet.latent_channels)
    weights.layer(prefix + "time_embed.0", (embedding, base))
    weights.layer(prefix + "time_embed.2", (embedding, embedding))

    weights.signal(prefix + "input_blocks.0.0", centred(way_in), noise=0.1)
    channels, skips, block = base, [base], 1
    last_level = len(unet.channel_mult) - 1
    for level, (mult, depth) in enumerate(zip(unet.channel_mult, unet.transformer_depth, strict=True)):
        for _ in range(unet.res_blocks):
            _add_unet_block(weights, f"{prefix}input_blocks.{block}.", channels, mult * base, depth, unet)
            channels = mult * base
            skips.append(channels)
            block += 1
        if level != last_level:
            weights.layer(f"{prefix}input_blocks.{block}.0.op", (channels, channels, 3, 3))
            skips.append(channels)
            block += 1

    _add_unet_res_block(weights, prefix + "middle_block.0.", channels, channels, embedding)
    _add_spatial_transformer(weights, prefix + "middle_block.1.", channels, 1, unet)
    _add_unet_res_block(weights, prefix + "middle_block.2.", channels, channels, embedding)

    block = 0
    for level in range(last_level, -1, -1):
        width, depth = unet.channel_mult[level] * base, unet.transformer_depth[level]
        for index in range(unet.res_blocks + 1):
            name = f"{prefix}output_blocks.{block}."
            _add_unet_block(weights, name, channels + skips.pop(), width, depth, unet)
            channels = width
            if level and index == unet.res_blocks:
                weights.layer(f"{name}{2 if depth else 1}.conv", (channels, channels, 3, 3))
            block += 1
    _pass_first_skip(weights, f"{prefix}output_blocks.{block - 1}.0.skip_connection", base)
    weights.norm(prefix + "out.0", base)
    # the last norm divides the signal by the deviation of signal and residuals together
    weights.signal(prefix + "out.2", centred(1.6 * way_out), noise=RESIDUAL_GAIN)


def _pass_first_skip(weights: Weights, key: str, base: int) -> None:
    """The last block's shortcut sees [features, first skip]: let the first skip through and damp the features."""
    kernel = weights.tensors[key + ".weight"].float() * RESIDUAL_GAIN / 2
    kernel[:, -base:] = torch.eye(base)[:, :, None, None]
    weights.put(key + ".weight", kernel)


def _add_unet_block(weights: Weights, prefix: str, inputs: int, outputs: int, depth: int, unet: UNet) -> None:
    _add_unet_res_block(weights, prefix + "0.", inputs, outputs, 4 * unet.model_channels)
    if depth:
        _add_spatial_transformer(weights, prefix + "1.", outputs, depth, unet)


def _add_unet_res_block(weights: Weights, prefix: str, inputs: int, outputs: int, embedding: int) -> None:
    weights.norm(prefix + "in_layers.0", inputs)
    weights.layer(prefix + "in_layers.2", (outputs, inputs, 3, 3))
    weights.layer(prefix + "emb_layers.1", (outputs, embedding))
    weights.norm(prefix + "out_layers.0", outputs)
    weights.layer(prefix + "out_layers.3", (outputs, outputs, 3, 3), gain=RESIDUAL_GAIN)
    if inputs != outputs:
        weights.layer(prefix + "skip_connection", (outputs, inputs, 1, 1))


def _add_spatial_transformer(weights: Weights, prefix: str, width: int, depth: int, unet: UNet) -> None:
    projection = (width, width) if unet.linear_projection else (width, width, 1, 1)
    weights.norm(prefix + "norm", width)
    weights.layer(prefix + "proj_in", projection)
    for index in range(depth):
        block = f"{prefix}transformer_blocks.{index}."
        for attention, context, gain in (("attn1.", width, 1.0), ("attn2.", unet.context, TEXT_GAIN)):
            weights.layer(block + attention + "to_q", (width, width), gain=gain, bias=False)
            weights.layer(block + attention + "to_k", (width, context), bias=False)
            weights.layer(block + attention + "to_v", (width, context), gain=gain, bias=False)
            weights.layer(block + attention + "to_out.0", (width, width), gain=gain)
        weights.layer(block + "ff.net.0.proj", (8 * width, width))
        weights.layer(block + "ff.net.2", (width, 4 * width), gain=RESIDUAL_GAIN)
        for norm in ("norm1", "norm2", "norm3"):
            weights.norm(block + norm, width)
    weights.layer(prefix + "proj_out", projection, gain=RESIDUAL_GAIN)


# --- CLIP text encoder


def _add_text_encoder(weights: Weights, encoder: TextEncoder) -> None:
    width, prefix, embedding_std = encoder.width, encoder.prefix, 0.02
    embeddings = prefix + "embeddings."
    weights.put(embeddings + "token_embedding.weight", weights.random(encoder.vocabulary, width, std=embedding_std))
    weights.put(embeddings + "position_embedding.weight", weights.random(encoder.positions, width, std=0.005))
    for index in range(encoder.layers):
        layer = f"{prefix}encoder.layers.{index}."
        for projection in ("q_proj", "k_proj", "v_proj"):
            weights.layer(f"{layer}self_attn.{projection}", (width, width))
        # branches on the scale of the embeddings, so that words still differ after the last layer
        weights.layer(layer + "self_attn.out_proj", (width, width), gain=2 * embedding_std)
        weights.norm(layer + "layer_norm1", width)
        weights.norm(layer + "layer_norm2", width)
        weights.layer(layer + "mlp.fc1", (4 * width, width))
        weights.layer(layer + "mlp.fc2", (width, 4 * width), gain=embedding_std)
        for branch in ("self_attn.out_proj", "mlp.fc2"):
            weights.put(f"{layer}{branch}.bias", weights.random(width, std=0.001))
    weights.norm(prefix + "final_layer_norm", width)


# --- autoencoder


def _add_autoencoder(weights: Weights, prefix: str, vae: Autoencoder) -> None:
    widths = [vae.channels * mult for mult in vae.channel_mult]
    latents = vae.latent_channels
    _add_encoder(weights, prefix + "encoder.", vae, widths)
    _add_decoder(weights, prefix + "decoder.", vae, widths)

    # the colours arrive with a deviation of about 1: stretch them to what the U-Net's latent scale expects
    moments = torch.zeros(2 * latents, 2 * latents)
    moments[:latents, :latents] = torch.eye(latents) / LATENT_SCALE
    log_variance = torch.cat([torch.zeros(latents), torch.full((latents,), -10.0)])
    weights.signal(prefix + "quant_conv", centred(moments, 1), bias=log_variance)
    weights.signal(prefix + "post_quant_conv", centred(torch.eye(latents) * LATENT_SCALE, 1))


def _add_encoder(weights: Weights, prefix: str, vae: Autoencoder, widths: list[int]) -> None:
    way_in, way_out = signal_pairs(weights, widths[0], 3)
    weights.signal(prefix + "conv_in", centred(way_in))
    channels = widths[0]
    for level, width in enumerate(widths):
        for index in range(vae.res_blocks):
            _add_vae_res_block(weights, f"{prefix}down.{level}.block.{index}.", channels, width)
            channels = width
        if level != len(widths) - 1:
            # the host pads right and below, so these taps are the 2x2 pixels that become one
            kernel = averaged(torch.eye(channels), [(0, 0), (0, 1), (1, 0), (1, 1)])
            weights.signal(f"{prefix}down.{level}.downsample.conv", kernel)
    _add_vae_middle(weights, prefix, channels)
    weights.norm(prefix + "norm_out", channels)
    colours_out = torch.zeros(2 * vae.latent_channels, channels)
    colours_out[:3, : widths[0]] = way_out
    weights.signal(prefix + "conv_out", centred(colours_out), noise=0.1)


def _add_decoder(weights: Weights, prefix: str, vae: Autoencoder, widths: list[int]) -> None:
    colour_path = widths[0]
    way_in, way_out = signal_pairs(weights, colour_path, 3)
    channels = widths[-1]
    latents_in = torch.zeros(channels, vae.latent_channels)
    latents_in[:colour_path, :3] = way_in
    weights.signal(prefix + "conv_in", centred(latents_in), noise=0.1)
    _add_vae_middle(weights, prefix, channels)
    for level in range(len(widths) - 1, -1, -1):
        for index in range(vae.res_blocks + 1):
            _add_vae_res_block(weights, f"{prefix}up.{level}.block.{index}.", channels, widths[level])
            channels = widths[level]
        if level:
            weights.signal(f"{prefix}up.{level}.upsample.conv", centred(torch.eye(channels)))
    weights.norm(prefix + "norm_out", channels)
    weights.signal(prefix + "conv_out", centred(way_out * 0.5))


def _add_vae_res_block(weights: Weights, prefix: str, inputs: int, outputs: int) -> None:
    weights.norm(prefix + "norm1", inputs)
    weights.layer(prefix + "conv1", (outputs, inputs, 3, 3))
    weights.norm(prefix + "norm2", outputs)
    weights.layer(prefix + "conv2", (outputs, outputs, 3, 3), gain=0.1)
    if inputs != outputs:
        weights.signal(prefix + "nin_shortcut", centred(torch.eye(outputs, inputs), 1), noise=0.05)


def _add_vae_middle(weights: Weights, prefix: str, channels: int) -> None:
    _add_vae_res_block(weights, prefix + "mid.block_1.", channels, channels)
    weights.norm(prefix + "mid.attn_1.norm", channels)
    for layer, gain in (("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", 0.1)):
        weights.layer(f"{prefix}mid.attn_1.{layer}", (channels, channels, 1, 1), gain=gain)
    _add_vae_res_block(weights, prefix + "mid.block_2.", channels, channels)
