"""Small checkpoints that the stock loaders take for real ones: genuine key layout, few blocks, random weights.

A `Family` describes a model family by the sizes its loader looks at; `family_state_dict` turns any description into
weights. Purely random weights would give saturated noise, so the residual branches are kept small beside a *signal
path* that carries the input to the output: the autoencoder returns a blocky copy of its picture and the U-Net
predicts mostly its own input, which is a fair guess of the noise. The residual branches, text conditioning included,
stay random and reach the output.

The big text encoders of SD 2.x and SDXL keep their full depth, which the host insists on, but their layers share a few
matrices; a .ckpt file stores shared memory once.

Layouts: CompVis `ldm` (U-Net and autoencoder), transformers (CLIP-L), OpenCLIP (H and bigG).
"""

from __future__ import annotations

import dataclasses
import pathlib

import torch

from .random_weights import Weights, averaged, centred, save_torch, save_weights, signal_pairs

RESIDUAL_GAIN = 0.25  # standard deviation of a residual branch beside a signal of about 1
TEXT_GAIN = 2.5  # cross-attention is stronger than self-attention, so that every word of a prompt shows


@dataclasses.dataclass(frozen=True)
class UNet:
    """Sizes of an ldm U-Net. `transformer_depth` is per level; 0 means a level without cross-attention.

    `vector` is the width of the vector conditioning of SDXL. `velocity` marks a U-Net that predicts it as the host
    tells it in SD 2.x: by a wide spread of one bias, which needs 4 levels of 2 blocks.
    """

    context: int
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 1, 1, 1)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    linear_projection: bool = False
    res_blocks: int = 1
    latent_channels: int = 4
    middle_depth: int = 1
    vector: int | None = None
    velocity: bool = False


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Sizes of a CLIP text encoder below `prefix`, in transformers' layout or in OpenCLIP's.

    Its matrices are those of the first `distinct_layers` over and over; every layer has norms and biases of its own.
    """

    prefix: str
    width: int
    layers: int
    openclip: bool = False
    distinct_layers: int | None = None
    vocabulary: int = 49408
    positions: int = 77


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Sizes of an ldm autoencoder, which the host fixes; its latents have a deviation of about 1 / latent_scale."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    latent_channels: int = 4
    latent_scale: float = 0.18215


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

_OPENCLIP_H = TextEncoder("cond_stage_model.model.", width=1024, layers=24, openclip=True, distinct_layers=3)

SD2_BASE = Family(
    unet=UNet(context=1024, linear_projection=True),
    text_encoders=(_OPENCLIP_H,),
    autoencoder=Autoencoder(),
)

SD2_V = Family(
    unet=UNet(context=1024, linear_projection=True, res_blocks=2, velocity=True),
    text_encoders=(_OPENCLIP_H,),
    autoencoder=Autoencoder(),
)

SDXL = Family(
    unet=UNet(
        context=2048,
        channel_mult=(1, 1, 1),
        transformer_depth=(0, 2, 10),
        middle_depth=10,
        linear_projection=True,
        res_blocks=2,
        vector=2816,
    ),
    text_encoders=(
        TextEncoder("conditioner.embedders.0.transformer.text_model.", width=768, layers=12, distinct_layers=3),
        TextEncoder("conditioner.embedders.1.model.", width=1280, layers=32, openclip=True, distinct_layers=3),
    ),
    autoencoder=Autoencoder(latent_scale=0.13025),
)


def make_checkpoint(family: Family, path: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write a .ckpt (fp16) that the stock CheckpointLoaderSimple recognises as `family`."""
    return save_torch(family_state_dict(family, seed), path)


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
    base, last_level = unet.model_channels, len(unet.channel_mult) - 1
    skips, way_out = add_unet_encoder(weights, prefix, unet)
    channels = skips[-1]

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
    if unet.velocity:
        bias = f"{prefix}output_blocks.11.1.transformer_blocks.0.norm1.bias"
        weights.put(bias, weights.random(base, std=0.2))
    _pass_first_skip(weights, f"{prefix}output_blocks.{block - 1}.0.skip_connection", base)
    weights.norm(prefix + "out.0", base)
    # the last norm divides the signal by the deviation of signal and residuals together
    weights.signal(prefix + "out.2", centred(1.6 * way_out), noise=RESIDUAL_GAIN)


def add_unet_encoder(weights: Weights, prefix: str, unet: UNet) -> tuple[list[int], torch.Tensor]:
    """Add embeddings, way down and middle of a U-Net, which are a ControlNet's too.

    Returns the channels of the skip connections, the first one first, and the way out of the signal path.
    """
    base, embedding = unet.model_channels, 4 * unet.model_channels
    way_in, way_out = signal_pairs(weights, base, unet.latent_channels)
    weights.layer(prefix + "time_embed.0", (embedding, base))
    weights.layer(prefix + "time_embed.2", (embedding, embedding))
    if unet.vector:
        weights.layer(prefix + "label_emb.0.0", (embedding, unet.vector))
        weights.layer(prefix + "label_emb.0.2", (embedding, embedding))

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
    _add_spatial_transformer(weights, prefix + "middle_block.1.", channels, unet.middle_depth, unet)
    _add_unet_res_block(weights, prefix + "middle_block.2.", channels, channels, embedding)
    return skips, way_out


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


# what a layer of transformers' layout is called in OpenCLIP's, whose in_proj holds q, k and v below each other
_OPENCLIP_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _add_text_encoder(weights: Weights, encoder: TextEncoder) -> None:
    width, prefix = encoder.width, encoder.prefix
    embedding_std, embeddings = 0.02, "" if encoder.openclip else "embeddings."
    positions = "positional_embedding" if encoder.openclip else "embeddings.position_embedding.weight"
    table = f"{prefix}{embeddings}token_embedding.weight"
    weights.put(table, weights.random(encoder.vocabulary, width, std=embedding_std))
    weights.put(prefix + positions, weights.random(encoder.positions, width, std=0.005))
    layers = prefix + ("transformer.resblocks." if encoder.openclip else "encoder.layers.")
    distinct = encoder.distinct_layers or encoder.layers
    for index in range(distinct):
        _add_text_layer(weights, f"{layers}{index}.", width, embedding_std)
        if encoder.openclip:
            _rename_to_openclip(weights, f"{layers}{index}.")
    for index in range(distinct, encoder.layers):
        _repeat_text_layer(weights, f"{layers}{index % distinct}.", f"{layers}{index}.")
    weights.norm(prefix + ("ln_final" if encoder.openclip else "final_layer_norm"), width)
    if encoder.openclip:
        weights.put(prefix + "text_projection", weights.random(width, width, std=width**-0.5))


def _add_text_layer(weights: Weights, layer: str, width: int, embedding_std: float) -> None:
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


def _rename_to_openclip(weights: Weights, layer: str) -> None:
    tensors = weights.tensors
    for part in ("weight", "bias"):
        parts = [tensors.pop(f"{layer}self_attn.{projection}.{part}") for projection in ("q_proj", "k_proj", "v_proj")]
        tensors[f"{layer}attn.in_proj_{part}"] = torch.cat(parts)
        for name, openclip in _OPENCLIP_NAMES.items():
            tensors[f"{layer}{openclip}.{part}"] = tensors.pop(f"{layer}{name}.{part}")


def _repeat_text_layer(weights: Weights, source: str, layer: str) -> None:
    for key in [key for key in weights.tensors if key.startswith(source)]:
        tensor = weights.tensors[key]
        if tensor.ndim == 1:
            tensor = tensor + weights.random(*tensor.shape, std=0.01).half()
        weights.tensors[layer + key.removeprefix(source)] = tensor


# --- autoencoder


def _add_autoencoder(weights: Weights, prefix: str, vae: Autoencoder) -> None:
    widths = [vae.channels * mult for mult in vae.channel_mult]
    latents = vae.latent_channels
    _add_encoder(weights, prefix + "encoder.", vae, widths)
    _add_decoder(weights, prefix + "decoder.", vae, widths)

    # the colours arrive with a deviation of about 1: stretch them to what the U-Net's latent scale expects
    moments = torch.zeros(2 * latents, 2 * latents)
    moments[:latents, :latents] = torch.eye(latents) / vae.latent_scale
    log_variance = torch.cat([torch.zeros(latents), torch.full((latents,), -10.0)])
    weights.signal(prefix + "quant_conv", centred(moments, 1), bias=log_variance)
    weights.signal(prefix + "post_quant_conv", centred(torch.eye(latents) * vae.latent_scale, 1))


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
