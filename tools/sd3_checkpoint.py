"""Small checkpoints of Stable Diffusion 3 and 3.5 that the stock loaders take for real ones.

Genuine key layout, two blocks, random weights; the host reads the depth off the width (64 for each block). A signal
path carries the latents to the answer, which is a fair guess of the velocity where there is much noise. What the host
reads off the weights is small; the widths that it fixes are kept.
"""

from __future__ import annotations

import dataclasses
import pathlib

import torch

from .checkpoint import Autoencoder, TextEncoder, _add_autoencoder, _add_text_encoder
from .random_weights import Weights, averaged, centred, save_torch, save_weights, signal_pairs
from .taesd import RESIDUAL_GAIN, WIDTH

HEAD_WIDTH = 64
PATCH = 2
LATENT_CHANNELS = 16
LATENT_SCALE, LATENT_SHIFT = 1.5305, 0.0609
PROMPT_WIDTH = 4096
VECTOR_WIDTH = 2048
ENCODERS = ("clip_l", "clip_g", "t5xxl")

# by these shapes the stock CLIP loaders know CLIP-G and T5-XXL, whatever their depth
_MARKS = {
    "clip_g": {"text_model.encoder.layers.30.mlp.fc1.weight": (1,)},
    "t5xxl": {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)},
}

# the host's names of the sizes that its T5 is cut down to, see `te_model_options`; common words are the first 8000
SMALL_T5 = {"num_layers": 2, "num_heads": 2, "d_kv": 64, "d_ff": 64, "vocab_size": 8000}


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes of an MM-DiT. The two marks are what tells 3, 3.5 medium and 3.5 large apart.

    Attributes:
        depth: number of blocks, and of heads.
        normalised: queries and keys are (3.5).
        dual: number of blocks with a second attention among image positions (3.5 medium).
        positions: side of the table of positions, in patches.
    """

    depth: int = 2
    normalised: bool = False
    dual: int = 0
    positions: int = 32
    prompt_width: int = PROMPT_WIDTH
    vector_width: int = VECTOR_WIDTH


SD3_MEDIUM = Transformer()
SD35_MEDIUM = Transformer(normalised=True, dual=1)
SD35_LARGE = Transformer(normalised=True)


def make_sd3_checkpoint(path: str | pathlib.Path, transformer: Transformer, **parts) -> pathlib.Path:
    """Write a .ckpt (fp16) that the stock CheckpointLoaderSimple recognises; parts as in `sd3_state_dict`."""
    return save_torch(sd3_state_dict(transformer, **parts), path)


def sd3_state_dict(
    transformer: Transformer,
    encoders: tuple[str, ...] = ("clip_l",),
    text_layers: int | None = None,
    autoencoder: int | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint, fp16 on the CPU.

    Args:
        encoders: which of `ENCODERS` it holds; T5 has the sizes of `SMALL_T5`.
        text_layers: of the CLIP encoders; None: as many as the host wants.
        autoencoder: width of its first level, which the host wants to be 128; None: there is none.
    """
    weights = Weights(seed)
    add_transformer(weights, "model.diffusion_model.", transformer)
    for key in encoders:
        add_text_encoder(weights, key, f"text_encoders.{key}.transformer.", text_layers)
    if autoencoder is not None:
        add_autoencoder(weights, "first_stage_model.", autoencoder)
    return weights.tensors


def text_encoder_state(key: str, text_layers: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """A text encoder as the stock CLIP loaders read it; see `sd3_state_dict`."""
    weights = Weights(seed)
    add_text_encoder(weights, key, "", text_layers)
    return weights.tensors | {name: torch.zeros(shape).half() for name, shape in _MARKS.get(key, {}).items()}


def te_model_options(text_layers: int | None = None) -> dict[str, dict[str, int]]:
    """The host's own options for text encoders of these sizes."""
    options: dict[str, dict[str, int]] = {"t5xxl_model_config": dict(SMALL_T5)}
    if text_layers is not None:
        # the last is what loaders of separate text encoders go by
        names = ("clip_l_model_config", "clip_g_model_config", "model_config")
        options |= {name: {"num_hidden_layers": text_layers} for name in names}
    return options


def add_transformer(weights: Weights, prefix: str, sizes: Transformer) -> None:
    """Add an MM-DiT in Stability AI's layout."""
    width, patches = HEAD_WIDTH * sizes.depth, LATENT_CHANNELS * PATCH**2
    way_in = torch.linalg.qr(weights.random(width, patches)).Q  # (width, patches)
    kernel = way_in.unflatten(1, (PATCH, PATCH, LATENT_CHANNELS)).permute(0, 3, 1, 2)
    weights.signal(prefix + "x_embedder.proj", kernel, noise=0.1)
    weights.put(prefix + "pos_embed", weights.random(1, sizes.positions**2, width, std=0.1))
    weights.layer(prefix + "t_embedder.mlp.0", (width, 256))
    weights.layer(prefix + "t_embedder.mlp.2", (width, width))
    weights.layer(prefix + "y_embedder.mlp.0", (width, sizes.vector_width))
    weights.layer(prefix + "y_embedder.mlp.2", (width, width))
    weights.layer(prefix + "context_embedder", (width, sizes.prompt_width), gain=3.0)
    for number in range(sizes.depth):
        block = f"{prefix}joint_blocks.{number}."
        last, dual = number == sizes.depth - 1, number < sizes.dual
        _add_stream(weights, block + "x_block.", width, sizes.normalised, 9 if dual else 6)
        if dual:
            _add_attention(weights, block + "x_block.attn2.", width, sizes.normalised)
        _add_stream(weights, block + "context_block.", width, sizes.normalised, 2 if last else 6)
    weights.layer(prefix + "final_layer.adaLN_modulation.1", (2 * width, width), gain=0.1)
    weights.signal(prefix + "final_layer.linear", way_in.T * (width / patches) ** -0.5, noise=0.25)


def _add_stream(weights: Weights, prefix: str, width: int, normalised: bool, modulations: int) -> None:
    weights.layer(prefix + "adaLN_modulation.1", (modulations * width, width), gain=0.5)
    ends = modulations == 2
    _add_attention(weights, prefix + "attn.", width, normalised, ends)
    if not ends:
        weights.layer(prefix + "mlp.fc1", (4 * width, width))
        weights.layer(prefix + "mlp.fc2", (width, 4 * width))


def _add_attention(weights: Weights, prefix: str, width: int, normalised: bool, ends: bool = False) -> None:
    weights.layer(prefix + "qkv", (3 * width, width), gain=1.5)
    if not ends:
        weights.layer(prefix + "proj", (width, width))
    if normalised:
        for norm in ("ln_q", "ln_k"):
            weights.put(f"{prefix}{norm}.weight", 1.5 + weights.random(HEAD_WIDTH, std=0.05))


def add_text_encoder(weights: Weights, key: str, prefix: str, text_layers: int | None) -> None:
    """Add one of `ENCODERS` in transformers' layout; layers of CLIP share their matrices."""
    if key == "t5xxl":
        _add_t5(weights, prefix)
        return
    width, layers = {"clip_l": (768, 12), "clip_g": (1280, 32)}[key]
    sizes = TextEncoder(prefix + "text_model.", width=width, layers=text_layers or layers, distinct_layers=2)
    _add_text_encoder(weights, sizes)
    if key == "clip_g":
        weights.put(prefix + "text_projection.weight", weights.random(width, width, std=width**-0.5))


def _add_t5(weights: Weights, prefix: str) -> None:
    width, inner = PROMPT_WIDTH, SMALL_T5["num_heads"] * SMALL_T5["d_kv"]
    # each row is the one before, moved on: a table that takes next to no room in a file
    noise = weights.random(SMALL_T5["vocab_size"] * 8 + width).half()
    weights.tensors[prefix + "shared.weight"] = noise.as_strided((SMALL_T5["vocab_size"], width), (8, 1))
    for number in range(SMALL_T5["num_layers"]):
        block = f"{prefix}encoder.block.{number}.layer."
        for name, shape, gain in (
            ("q", (inner, width), 0.25),  # attention of T5 does not divide by the root of the width
            ("k", (inner, width), 0.5),
            ("v", (inner, width), 1.0),
            ("o", (width, inner), 0.5),
        ):
            weights.layer(f"{block}0.SelfAttention.{name}", shape, gain=gain, bias=False)
        for name in ("wi_0", "wi_1"):
            weights.layer(f"{block}1.DenseReluDense.{name}", (SMALL_T5["d_ff"], width), bias=False)
        weights.layer(f"{block}1.DenseReluDense.wo", (width, SMALL_T5["d_ff"]), gain=0.5, bias=False)
        for part in (0, 1):
            weights.put(f"{block}{part}.layer_norm.weight", 1 + weights.random(width, std=0.05))
    bias = f"{prefix}encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    weights.put(bias, weights.random(32, SMALL_T5["num_heads"]))
    weights.put(prefix + "encoder.final_layer_norm.weight", 0.2 + weights.random(width, std=0.02))


def add_autoencoder(weights: Weights, prefix: str, channels: int) -> None:
    """Add an autoencoder with 16 channels and nothing between encoder and latents, as from Stable Diffusion 3 on."""
    whole = Weights(weights.generator.initial_seed())
    _add_autoencoder(whole, "", Autoencoder(channels, latent_channels=LATENT_CHANNELS, latent_scale=LATENT_SCALE))
    tensors = {key: tensor.float() for key, tensor in whole.tensors.items()}
    out, quantise = tensors["encoder.conv_out.weight"], tensors.pop("quant_conv.weight")[:, :, 0, 0]
    tensors["encoder.conv_out.weight"] = torch.einsum("ij,jkhw->ikhw", quantise, out)
    moved = torch.cat([torch.full((LATENT_CHANNELS,), LATENT_SHIFT), torch.zeros(LATENT_CHANNELS)])
    tensors["encoder.conv_out.bias"] = tensors.pop("quant_conv.bias") + moved
    back = tensors.pop("post_quant_conv.weight")[:, :, 0, 0]
    tensors["decoder.conv_in.weight"] = torch.einsum("ojhw,ji->oihw", tensors["decoder.conv_in.weight"], back)
    del tensors["post_quant_conv.bias"]
    for key, tensor in tensors.items():
        weights.put(prefix + key, tensor)


def make_taesd3(models_dir: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write `models_dir`/vae_approx/taesd3_{encoder,decoder}.safetensors; the stock VAELoader lists them as "taesd3".

    Latents are block means of 2 * colour - 1 and random channels; decoding gives a blocky copy of the picture.
    """
    folder = pathlib.Path(models_dir) / "vae_approx"
    save_weights(_taesd_encoder(Weights(seed)), folder / "taesd3_encoder.safetensors")
    save_weights(_taesd_decoder(Weights(seed + 1)), folder / "taesd3_decoder.safetensors")
    return folder


def _taesd_encoder(weights: Weights) -> dict[str, torch.Tensor]:
    way_in, way_out = signal_pairs(weights, WIDTH, 3)
    weights.signal("0", centred(2 * way_in), bias=-way_in.sum(1))
    _add_taesd_blocks(weights, [1])
    # a stride of 2 with symmetric padding: the 2x2 pixels that become one start at the kernel's centre
    halve = averaged(torch.eye(WIDTH), [(1, 1), (1, 2), (2, 1), (2, 2)])
    for index in (2, 6, 10):
        weights.signal(str(index), halve, bias=None)
        _add_taesd_blocks(weights, range(index + 1, index + 4))
    way_out = torch.cat([way_out, torch.zeros(LATENT_CHANNELS - 3, WIDTH)])
    weights.signal("14", centred(way_out), noise=0.5)
    return weights.tensors


def _taesd_decoder(weights: Weights) -> dict[str, torch.Tensor]:
    way_in, way_out = signal_pairs(weights, WIDTH, 3)
    way_in = torch.cat([way_in, torch.zeros(WIDTH, LATENT_CHANNELS - 3)], 1)
    weights.signal("1", centred(way_in), noise=0.02)
    _add_taesd_blocks(weights, range(3, 6))
    for index, blocks in ((7, 3), (12, 3), (17, 1)):
        weights.signal(str(index), centred(torch.eye(WIDTH)), bias=None)
        _add_taesd_blocks(weights, range(index + 1, index + 1 + blocks))
    weights.signal("19", centred(way_out * 0.5), bias=0.5)
    return weights.tensors


def _add_taesd_blocks(weights: Weights, indices) -> None:
    for index in indices:
        for layer, gain in ((0, 1.0), (2, 1.0), (4, RESIDUAL_GAIN)):
            weights.layer(f"{index}.conv.{layer}", (WIDTH, WIDTH, 3, 3), gain=gain)
