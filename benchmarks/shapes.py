"""The networks that are measured, with random weights: weights do not change speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from magictailor.backbones import family_named
from magictailor.backbones.placement import place
from magictailor.backbones.protocol import Backbone
from magictailor.backbones.stable_diffusion import UNetFamily
from magictailor.backbones.stable_diffusion.backbone import assemble
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.backbones.stable_diffusion_3 import TransformerFamily
from magictailor.backbones.stable_diffusion_3.backbone import assemble as assemble_transformer
from magictailor.backbones.stable_diffusion_3.schedule import RectifiedFlow
from magictailor.backbones.t5 import t5_dtype
from magictailor.config import TailorConfig

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


@dataclass(frozen=True)
class TransformerShape:
    """Stable Diffusion 3 at full size, with all its text encoders; as `Shape`."""

    family: str
    transformer: dict[str, Any]
    text: tuple[dict[str, Any], ...]
    t5: dict[str, Any]
    resolution: int
    textbook: bool = False

    @property
    def described(self) -> TransformerFamily:
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

SD35_MEDIUM: dict[str, Any] = dict(
    sample_size=128, in_channels=16, out_channels=16, num_layers=24, num_attention_heads=24,
    caption_projection_dim=1536, joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=384,
    qk_norm="rms_norm", dual_attention_layers=tuple(range(13)),
)  # fmt: skip
T5_XXL: dict[str, Any] = dict(
    vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)  # fmt: skip

SHAPES: dict[str, Shape | TransformerShape] = {
    "small": Shape("sd1", _unet((320,) * 4, 1, 8, 768), (CLIP_L,), 64),
    "sd15": Shape("sd1", _unet((320, 640, 1280, 1280), 2, 8, 768), (CLIP_L,), 512),
    "sd21": Shape(
        "sd2", _unet((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, use_linear_projection=True), (CLIP_H,), 512
    ),
    "sd21_v": Shape(
        "sd2_v", _unet((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, use_linear_projection=True), (CLIP_H,), 768
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
    "sd35m": TransformerShape("sd3.5_medium", SD35_MEDIUM, (CLIP_L, CLIP_G), T5_XXL, 1024),
}


@dataclass(frozen=True)
class Parts:
    """Frozen networks with random weights."""

    network: UNet2DConditionModel | SD3Transformer2DModel
    encoders: dict[str, nn.Module]
    autoencoder: AutoencoderKL


def make_parts(
    shape: Shape | TransformerShape, dtype: torch.dtype, device: torch.device, text_attention: str = "sdpa"
) -> Parts:
    """The networks of a shape; the same seed at every call, so the same weights.

    Args:
        text_attention: of the CLIP text encoders; by default transformers' own choice.
    """
    # cast one by one: all of them at once in 32 bits need more room than a training step
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        if isinstance(shape, Shape):
            network = _frozen(UNet2DConditionModel(**shape.unet), dtype)
            autoencoder = _autoencoder(shape.autoencoder, dtype)
        else:
            network = _frozen(SD3Transformer2DModel(**shape.transformer), dtype)
            more = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
            autoencoder = _autoencoder({"block_out_channels": (128, 256, 512, 512)} | more, dtype)
        encoders = {}
        for description, text in zip(shape.described.text_encoders, shape.text, strict=True):
            # only the pooled encoder of a family has a projection
            kind = CLIPTextModelWithProjection if text is CLIP_G else CLIPTextModel
            encoder = kind(CLIPTextConfig(**text, attn_implementation=text_attention))
            encoders[description.key] = _frozen(encoder, dtype).eval()
        if isinstance(shape, TransformerShape):
            encoders["t5xxl"] = _frozen(T5EncoderModel(T5Config(**shape.t5)), t5_dtype(dtype)).eval()
    return Parts(network, encoders, autoencoder)


def _autoencoder(described: dict[str, Any], dtype: torch.dtype) -> AutoencoderKL:
    levels = len(described["block_out_channels"])
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        **described,
    )
    # what a step never runs need not be held
    autoencoder.decoder = autoencoder.post_quant_conv = nn.Identity()
    return _frozen(autoencoder, dtype).eval()


def _frozen(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    place(module.requires_grad_(False), dtype, next(module.parameters()).device)
    return module


def make_model(
    shape: Shape | TransformerShape,
    config: TailorConfig,
    parts: Parts,
    words: Sequence[str] = ("tower", "roof"),
    device: torch.device | None = None,
) -> Backbone:
    """A model to train, still to be arranged; it takes the parts away.

    Args:
        device: to train on; None: where the parts are.
    """
    shared = dict(
        family=shape.described,
        encoders=parts.encoders,
        autoencoder=parts.autoencoder,
        class_words=words,
        config=config,
        device=device or parts.network.device,
    )
    if isinstance(shape, Shape):
        return assemble(unet=parts.network, schedule=scaled_linear_schedule(), tokenizer=word_tokenizer, **shared)
    return assemble_transformer(
        transformer=parts.network,
        schedule=RectifiedFlow(),
        tokenizers={
            "clip_l": word_tokenizer,
            "t5xxl": lambda text: {"input_ids": word_tokenizer(text)["input_ids"][1:-1] + [1]},
        },
        **shared,
    )


def word_tokenizer(text: str) -> dict[str, list[int]]:
    """Some id for every word: which one does not change the work."""
    return {"input_ids": [START, *(1 + sum(map(ord, word)) % 40_000 for word in text.split()), END]}


def at_resolution(shape: Shape, resolution: int | None) -> Shape:
    return shape if resolution is None else dataclasses.replace(shape, resolution=resolution)
