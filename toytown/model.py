"""The toy town checkpoint: a small Stable Diffusion of diffusers' and transformers' own classes, in one file.

The file has the layout of a Stable Diffusion 1.x checkpoint: CompVis' names for U-Net and autoencoder, transformers'
for the text encoder. Widths are multiples of 32 because the host's group norms have 32 groups.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from types import ModuleType

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .vocabulary import END, START

FOLDER = pathlib.Path(__file__).resolve().parent
CHECKPOINT = FOLDER / "toytown.safetensors"
TOKENIZER = FOLDER / "tokenizer"

RESOLUTION = 64
LATENT_SCALE = 0.18215
PROMPT_LENGTH = 77
UNET_PREFIX, TEXT_PREFIX, AUTOENCODER_PREFIX = (
    "model.diffusion_model.",
    "cond_stage_model.transformer.text_model.",
    "first_stage_model.",
)
AUTOENCODER = {
    "block_out_channels": (64, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "scaling_factor": LATENT_SCALE,
}
UNET = {
    "sample_size": 16,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 96,
    "attention_head_dim": (2, 4),
}
TEXT_ENCODER = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": PROMPT_LENGTH,
    "hidden_act": "quick_gelu",
}


@dataclasses.dataclass(frozen=True)
class ToyTown:
    """The three networks, whole."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    autoencoder: AutoencoderKL


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder: (B, 3, 64, 64) to (B, 4, 16, 16)."""
    return AutoencoderKL(**AUTOENCODER)


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net."""
    return UNet2DConditionModel(**UNET)


def new_text_encoder(vocabulary: Mapping[str, int]) -> CLIPTextModel:
    """An untrained text encoder."""
    end = vocabulary[END]
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary[START],
        eos_token_id=end,
        pad_token_id=end,
        **TEXT_ENCODER,
    )
    return CLIPTextModel(config)


def load_vocabulary() -> dict[str, int]:
    """Ids of the tokenizer's pieces."""
    return json.loads((TOKENIZER / "vocab.json").read_text())


def load_tokenizer() -> CLIPTokenizer:
    """The tokenizer; every word of a caption is one token."""
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def family(backbones: ModuleType):
    """Register toy town with the library beside the real families.

    Args:
        backbones: the package `magictailor.backbones`, under whatever name it was imported.
    """
    description = backbones.stable_diffusion.UNetFamily(
        name="toytown",
        title="toy town",
        text_encoders=(
            backbones.clip_description.TextEncoderDescription(
                "clip_l", "quick_gelu", 32, pad_token=load_vocabulary()[END], layer=-1, normalised=True
            ),
        ),
        cross_attention_width=UNET["cross_attention_dim"],
        attention_heads=None,
        head_width=32,
        resolution=RESOLUTION,
        latent_scale=LATENT_SCALE,
        base_model_version="toytown",
        architecture="toytown",
        prediction_type=None,
    )
    backbones.register(description)
    return description


def load_checkpoint(path: pathlib.Path = CHECKPOINT) -> ToyTown:
    """The three networks with the weights of a file, in float32, for evaluation."""
    weights = {key: w.float() for key, w in load_file(path).items()}
    unet, autoencoder = new_unet(), new_autoencoder()
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(weights), unet.config))
    autoencoder.load_state_dict(
        convert_ldm_vae_checkpoint(
            {k.removeprefix(AUTOENCODER_PREFIX): w for k, w in weights.items() if k.startswith(AUTOENCODER_PREFIX)},
            autoencoder.config,
        )
    )
    text_encoder = new_text_encoder(load_vocabulary())
    text = {key.removeprefix(TEXT_PREFIX): w for key, w in weights.items() if key.startswith(TEXT_PREFIX)}
    # transformers 4 writes "text_model." before every key, transformers 5 does not
    named = {key: text[key.removeprefix("text_model.")] for key in text_encoder.state_dict()}
    text_encoder.load_state_dict(named)
    return ToyTown(*(module.eval().requires_grad_(False) for module in (unet, text_encoder, autoencoder)))
