"""Folders in diffusers' layout: transformer/, text_encoder/ (_2, _3), vae/, scheduler/ and tokenizer/ (_3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from ...config import TailorConfig
from ...errors import InputError
from .. import registered, supported
from ..autoencoder import decode
from ..diffusers_parts import CHECKPOINT, read_config, read_part
from .backbone import TransformerBackbone, assemble
from .checkpoint_file import tokenizers
from .family import T5, TransformerFamily
from .schedule import USUAL_SHIFT, RectifiedFlow

_TEXT_ENCODERS = {
    "clip_l": ("text_encoder", CLIPTextModelWithProjection),
    "clip_g": ("text_encoder_2", CLIPTextModelWithProjection),
    T5: ("text_encoder_3", T5EncoderModel),
}


def open_folder(folder: Path, tokenizer: Path | None) -> DiffusersCheckpoint | None:
    """See `Family.open_folder`."""
    if not (folder / "transformer").is_dir():
        return None
    config = read_config(folder, "transformer", "config.json")
    if config.get("_class_name") != "SD3Transformer2DModel":
        return None
    return DiffusersCheckpoint(folder, _family(config), tokenizer or folder / "tokenizer")


class DiffusersCheckpoint:
    """A folder as diffusers saves the pipelines of Stable Diffusion 3; text encoders may be missing.

    Args:
        folder: the folder.
        family: of its transformer.
        tokenizer: folder with CLIP's vocabulary, T5's beside it.

    Raises:
        InputError: a part is missing, or its noise levels are not known here.
    """

    def __init__(self, folder: Path, family: TransformerFamily, tokenizer: Path) -> None:
        self.folder = folder
        self.family = family
        self.schedule = _schedule(read_config(folder, "scheduler", "scheduler_config.json"))
        self.encoders = [key for key, (part, _) in _TEXT_ENCODERS.items() if (folder / part).is_dir()]
        if not self.encoders:
            raise InputError(CHECKPOINT, f"{folder} holds no text encoder")
        self.tokenizers = tokenizers(dict.fromkeys(self.encoders), tokenizer)

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> TransformerBackbone:
        """A model with fresh LoRA and tokens, as `build_model` gives it."""
        encoders = {}
        for key in self.encoders:
            part, kind = _TEXT_ENCODERS[key]
            encoders[key] = read_part(self.folder, part, kind).eval()
        return assemble(
            family=self.family,
            transformer=read_part(self.folder, "transformer", SD3Transformer2DModel),
            encoders=encoders,
            autoencoder=read_part(self.folder, "vae", AutoencoderKL).eval(),
            schedule=self.schedule,
            tokenizers=self.tokenizers,
            class_words=class_words,
            config=config,
            device=device,
        )

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """See `Checkpoint.decoder`."""
        autoencoder = read_part(self.folder, "vae", AutoencoderKL).to(device, torch.float32).eval()
        return lambda latents: decode(autoencoder, latents)


def _schedule(config: Mapping[str, Any]) -> RectifiedFlow:
    if config.get("_class_name") != "FlowMatchEulerDiscreteScheduler" or config.get("use_dynamic_shifting"):
        raise InputError(CHECKPOINT, "its scheduler/ is not that of Stable Diffusion 3")
    return RectifiedFlow(float(config.get("shift", USUAL_SHIFT)))


def _family(config: Mapping[str, Any]) -> TransformerFamily:
    found = (
        config.get("in_channels"),
        config.get("joint_attention_dim"),
        config.get("pooled_projection_dim"),
        config.get("qk_norm") == "rms_norm",
        bool(config.get("dual_attention_layers")),
    )
    for family in registered():
        if isinstance(family, TransformerFamily) and found == (
            family.latent_channels,
            family.prompt_width,
            family.vector_width,
            family.normalises_attention,
            family.attends_twice,
        ):
            return family
    raise InputError(CHECKPOINT, f"its transformer/ belongs to another family; {supported()}")
