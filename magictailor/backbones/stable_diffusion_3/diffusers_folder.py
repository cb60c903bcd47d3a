"""Folders in diffusers' layout: transformer/, text_encoder/ (_2, _3), vae/, scheduler/ and tokenizer/ (_3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from ...config import TailorConfig
from ...errors import InputError
from .. import registered, supported
from ..autoencoder import decode
from ..precision import encoding_dtype, precision_for
from ..t5 import t5_dtype
from .backbone import TransformerBackbone, assemble
from .checkpoint_file import tokenizers
from .family import T5, TransformerFamily
from .schedule import USUAL_SHIFT, RectifiedFlow

CHECKPOINT = "pretrained_model_name_or_path"

_TEXT_ENCODERS = {
    "clip_l": ("text_encoder", CLIPTextModelWithProjection),
    "clip_g": ("text_encoder_2", CLIPTextModelWithProjection),
    T5: ("text_encoder_3", T5EncoderModel),
}


def open_folder(folder: Path, tokenizer: Path | None) -> DiffusersCheckpoint | None:
    """See `Family.open_folder`."""
    if not (folder / "transformer").is_dir():
        return None
    config = _config(folder, "transformer", "config.json")
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
        self.schedule = _schedule(_config(folder, "scheduler", "scheduler_config.json"))
        self.encoders = [key for key, (part, _) in _TEXT_ENCODERS.items() if (folder / part).is_dir()]
        if not self.encoders:
            raise InputError(CHECKPOINT, f"{folder} holds no text encoder")
        self.tokenizers = tokenizers(dict.fromkeys(self.encoders), tokenizer)

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> TransformerBackbone:
        """A model with fresh LoRA and tokens, as `build_model` gives it."""
        precision = precision_for(config.mixed_precision, device)
        encoders = {}
        for key in self.encoders:
            part, kind = _TEXT_ENCODERS[key]
            encoders[key] = self._part(part, kind, t5_dtype(precision) if key == T5 else precision, device).eval()
        return assemble(
            family=self.family,
            transformer=self._part("transformer", SD3Transformer2DModel, precision, device),
            encoders=encoders,
            autoencoder=self._part("vae", AutoencoderKL, encoding_dtype(precision), device).eval(),
            schedule=self.schedule,
            tokenizers=self.tokenizers,
            class_words=class_words,
            config=config,
        )

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """See `Checkpoint.decoder`."""
        autoencoder = self._part("vae", AutoencoderKL, torch.float32, device).eval()
        return lambda latents: decode(autoencoder, latents)

    def _part(self, name: str, kind: Any, dtype: torch.dtype, device: torch.device) -> Any:
        folder = self.folder / name
        plain = any(".fp16." not in path.name for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin")))
        try:
            part = kind.from_pretrained(folder, local_files_only=True, variant=None if plain else "fp16")
        except (OSError, ValueError) as error:
            raise InputError(CHECKPOINT, f"{folder} cannot be loaded ({str(error)[:300]})") from error
        # diffusers' own to() warns of parts to keep in float32, of which these have none
        return nn.Module.to(part, device=device, dtype=dtype).requires_grad_(False)


def _config(folder: Path, part: str, name: str) -> dict[str, Any]:
    path = folder / part / name
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            CHECKPOINT, f"{folder} is not a diffusers folder: {part}/{name} cannot be read ({type(error).__name__})"
        ) from error


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
