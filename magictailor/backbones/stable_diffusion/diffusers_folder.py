"""Folders in diffusers' layout: unet/, text_encoder/, vae/, scheduler/ and tokenizer/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ...config import TailorConfig
from ...errors import InputError
from .. import registered, supported
from ..autoencoder import decode
from ..clip import TextEncoder, clip_tokenizer
from ..diffusers_parts import CHECKPOINT, read_config, read_part
from ..protocol import Tokenizer
from .backbone import UNetBackbone, assemble
from .family import UNetFamily
from .schedule import NoiseSchedule, scaled_linear_schedule


def open_folder(folder: Path, tokenizer: Path | None, prediction_type: str | None) -> DiffusersCheckpoint | None:
    """See `Family.open_folder`."""
    if not (folder / "unet").is_dir():
        return None
    return DiffusersCheckpoint(folder, clip_tokenizer(tokenizer or folder / "tokenizer"), prediction_type)


class DiffusersCheckpoint:
    """A folder with unet/, text_encoder/, vae/, scheduler/ and tokenizer/, as diffusers saves pipelines.

    Args:
        folder: the folder.
        tokenizer: see `clip_tokenizer`.
        prediction_type: of its U-Net; None: what scheduler/ says.

    Raises:
        InputError: a part is missing, or its family or noise levels are not known here.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, prediction_type: str | None = None) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.schedule = _schedule(read_config(folder, "scheduler", "scheduler_config.json"), prediction_type)
        self.family = _family(read_config(folder, "unet", "config.json"), self.schedule.prediction_type)

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> UNetBackbone:
        """A model with fresh LoRA and tokens, as `build_model` gives it."""
        encoders = {
            description.key: read_part(
                self.folder,
                f"text_encoder{'_2' if number else ''}",
                CLIPTextModelWithProjection if description.pooled else CLIPTextModel,
            ).eval()
            for number, description in enumerate(self.family.text_encoders)
        }
        return assemble(
            family=self.family,
            unet=read_part(self.folder, "unet", UNet2DConditionModel),
            encoders=encoders,
            autoencoder=read_part(self.folder, "vae", AutoencoderKL).eval(),
            schedule=self.schedule,
            tokenizer=self.tokenizer,
            class_words=class_words,
            config=config,
            device=device,
            text_layer=_last_if_cut_off(encoders),
        )

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """See `Checkpoint.decoder`."""
        autoencoder = read_part(self.folder, "vae", AutoencoderKL).to(device, torch.float32).eval()
        return lambda latents: decode(autoencoder, latents)


def _schedule(config: Mapping[str, Any], prediction_type: str | None) -> NoiseSchedule:
    predicts = prediction_type or config.get("prediction_type", "epsilon")
    usual = config.get("beta_schedule") == "scaled_linear" and not config.get("rescale_betas_zero_snr")
    if not usual or predicts not in ("epsilon", "v_prediction"):
        raise InputError(CHECKPOINT, "its scheduler/ is not that of Stable Diffusion 1.x, 2.x or SDXL")
    return scaled_linear_schedule(
        predicts, config["beta_start"], config["beta_end"], config.get("num_train_timesteps", 1000)
    )


def _family(unet: Mapping[str, Any], prediction_type: str) -> UNetFamily:
    widths = unet.get("cross_attention_dim"), unet.get("projection_class_embeddings_input_dim")
    for family in registered():
        if not isinstance(family, UNetFamily):
            continue
        fits = family.prediction_type in (None, prediction_type) and unet.get("in_channels") == 4
        if fits and widths == (family.cross_attention_width, family.vector_width):
            return family
    raise InputError(CHECKPOINT, f"its unet/ belongs to another family; {supported()}")


def _last_if_cut_off(encoders: Mapping[str, TextEncoder]) -> int | None:
    """Diffusers stores the text encoder of Stable Diffusion 2.x without the layer that is never read."""
    encoder = encoders.get("clip_h")
    return -1 if encoder is not None and encoder.config.num_hidden_layers == 23 else None
