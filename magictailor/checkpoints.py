"""Checkpoints on disk, without ComfyUI: a single file, or a folder in diffusers' layout. Nothing is ever downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .config import TailorConfig
from .errors import InputError
from .families import END_OF_TEXT, FAMILIES, Family, supported
from .mask_checkpoints import read_weights
from .model import CheckpointWeights, TailorModel, assemble, build_model, encoding_dtype, precision_for
from .noise import NoiseSchedule, PredictionType, scaled_linear_schedule
from .tokens import TextEncoder, Tokenizer
from .weights import LDM_UNET_PREFIX, build_decoder

CHECKPOINT, TOKENIZER = "pretrained_model_name_or_path", "tokenizer"
CLIP_VOCABULARY = "openai/clip-vit-large-patch14"

_AUTOENCODER_PREFIX = "first_stage_model."
# in the order in which the checkpoints of a family join them; OpenCLIP's own layout has no "transformer." in front
_TEXT_ENCODER_PREFIXES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
)
_KEYS_BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
_OTHER_SAMPLINGS = {
    "edm_mean": "EDM (Playground 2.5)",
    "edm_vpred.sigma_max": "EDM (CosXL)",
    "ztsnr": "zero terminal SNR",
}


class SingleFileCheckpoint:
    """A .safetensors or .ckpt file in the layout of CompVis' latent-diffusion.

    Args:
        path: the file; of a .ckpt only tensors are unpickled.
        tokenizer: see `clip_tokenizer`; such a file has no vocabulary.
        prediction_type: of its U-Net; None: as ComfyUI recognises it.

    Raises:
        InputError: it cannot be read, or is not a whole checkpoint of a kind known here.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, prediction_type: PredictionType | None = None):
        state = read_weights(path, CHECKPOINT)
        unet = _below(state, LDM_UNET_PREFIX)
        if not unet:
            raise InputError(CHECKPOINT, f"{path.name} is not a whole checkpoint: it has no U-Net; {supported()}")
        for key, sampling in _OTHER_SAMPLINGS.items():
            if key in state:
                raise InputError(CHECKPOINT, f"{path.name} is sampled with {sampling}, which is not known here")
        self.weights = CheckpointWeights(
            unet=unet,
            text_encoders=_text_encoders(state),
            autoencoder=_below(state, _AUTOENCODER_PREFIX),
            schedule=scaled_linear_schedule(prediction_type or _predicts(state)),
            tokenizer=tokenizer,
        )

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> TailorModel:
        """As `build_model`."""
        return build_model(self.weights, class_words, config, device)

    def decoder(self, device: torch.device) -> AutoencoderKL:
        """The decoding half of its autoencoder, in float32."""
        return build_decoder(self.weights.autoencoder, torch.float32, device)


class DiffusersCheckpoint:
    """A folder with unet/, text_encoder/, vae/, scheduler/ and tokenizer/, as diffusers saves pipelines.

    Args:
        folder: the folder.
        tokenizer: see `clip_tokenizer`.
        prediction_type: of its U-Net; None: what scheduler/ says.

    Raises:
        InputError: a part is missing, or its family or noise levels are not known here.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, prediction_type: PredictionType | None = None):
        self.folder = folder
        self.tokenizer = tokenizer
        self.schedule = _schedule(_config(folder, "scheduler", "scheduler_config.json"), prediction_type)
        self.family = _family(_config(folder, "unet", "config.json"), self.schedule.prediction_type)

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> TailorModel:
        """A model with fresh LoRA and tokens, as `build_model` gives it."""
        precision = precision_for(config.mixed_precision, device)
        encoders = {
            description.key: self._part(
                f"text_encoder{'_2' if number else ''}",
                CLIPTextModelWithProjection if description.pooled else CLIPTextModel,
                precision,
                device,
            ).eval()
            for number, description in enumerate(self.family.text_encoders)
        }
        return assemble(
            family=self.family,
            unet=self._part("unet", UNet2DConditionModel, precision, device),
            encoders=encoders,
            autoencoder=self._part("vae", AutoencoderKL, encoding_dtype(precision), device).eval(),
            schedule=self.schedule,
            tokenizer=self.tokenizer,
            class_words=class_words,
            config=config,
            text_layer=_last_if_cut_off(encoders),
        )

    def decoder(self, device: torch.device) -> AutoencoderKL:
        """Its autoencoder, in float32."""
        return self._part("vae", AutoencoderKL, torch.float32, device).eval()

    def _part(self, name: str, kind: type, dtype: torch.dtype, device: torch.device) -> nn.Module:
        folder = self.folder / name
        plain = any(".fp16." not in path.name for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin")))
        try:
            part = kind.from_pretrained(folder, local_files_only=True, variant=None if plain else "fp16")
        except (OSError, ValueError) as error:
            raise InputError(CHECKPOINT, f"{folder} cannot be loaded ({str(error)[:300]})") from error
        # diffusers' own to() warns of parts to keep in float32, of which these have none
        return nn.Module.to(part, device=device, dtype=dtype).requires_grad_(False)


def open_checkpoint(
    path: Path, tokenizer: Path | None = None, prediction_type: PredictionType | None = None
) -> SingleFileCheckpoint | DiffusersCheckpoint:
    """Open a checkpoint file, or a folder in diffusers' layout.

    Args:
        tokenizer: folder with CLIP's vocabulary; None: the checkpoint's own, or a cached one.

    Raises:
        InputError: there is no such file or folder, or it cannot be used.
    """
    if path.is_dir():
        return DiffusersCheckpoint(path, clip_tokenizer(tokenizer or path / "tokenizer"), prediction_type)
    if not path.is_file():
        raise InputError(
            CHECKPOINT, f"there is no {path}; give a checkpoint file or a diffusers folder, nothing is downloaded"
        )
    return SingleFileCheckpoint(path, clip_tokenizer(tokenizer), prediction_type)


def clip_tokenizer(folder: Path | None) -> Tokenizer:
    """CLIP's tokenizer.

    Args:
        folder: with its vocab.json and merges.txt; None: the one that transformers has in its cache.

    Raises:
        InputError: there is none, or another model's.
    """
    where = "the folder tokenizer of any Stable Diffusion in diffusers' layout, or comfy/sd1_tokenizer of a ComfyUI"
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder or CLIP_VOCABULARY, local_files_only=True)
        # transformers 5 makes an empty one where there are no files
        found = tokenizer("")["input_ids"] == [END_OF_TEXT - 1, END_OF_TEXT]
    except (OSError, ValueError, TypeError):
        found = False
    if not found:
        reason = f"no CLIP vocabulary in {folder}" if folder else "a single file has no vocabulary, and none is cached"
        raise InputError(TOKENIZER, f"{reason}; give {where}")
    return tokenizer


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _text_encoders(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state of each text encoder in transformers' layout, by embedding key."""
    found = {}
    for prefix in _TEXT_ENCODER_PREFIXES:
        encoder = _below(state, prefix)
        if encoder and prefix.endswith("model."):
            encoder = _from_openclip(encoder)
        table = next((t for key, t in encoder.items() if key.endswith("embeddings.token_embedding.weight")), None)
        if table is not None:
            found[_KEYS_BY_WIDTH.get(table.shape[1], f"a text encoder {table.shape[1]} wide")] = encoder
    return found


def _from_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # under the prefix of Stable Diffusion 2.x diffusers would leave out the last layer
    width = SimpleNamespace(config=SimpleNamespace(hidden_size=state["ln_final.weight"].shape[0]))
    return convert_open_clip_checkpoint(width, {f"openclip.{key}": t for key, t in state.items()}, prefix="openclip.")


def _predicts(state: Mapping[str, Tensor]) -> PredictionType:
    """By the marks ComfyUI goes by: a key in SDXL files, the wide spread of one bias in Stable Diffusion 2.x."""
    bias = state.get(f"{LDM_UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    context = state.get(f"{LDM_UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight")
    spread = bias is not None and context.shape[1] == 1024 and bias.float().std(unbiased=False) > 0.09
    return "v_prediction" if spread or "v_pred" in state else "epsilon"


def _config(folder: Path, part: str, name: str) -> dict[str, Any]:
    path = folder / part / name
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            CHECKPOINT, f"{folder} is not a diffusers folder: {part}/{name} cannot be read ({type(error).__name__})"
        ) from error


def _schedule(config: Mapping[str, Any], prediction_type: PredictionType | None) -> NoiseSchedule:
    predicts = prediction_type or config.get("prediction_type", "epsilon")
    usual = config.get("beta_schedule") == "scaled_linear" and not config.get("rescale_betas_zero_snr")
    if not usual or predicts not in ("epsilon", "v_prediction"):
        raise InputError(CHECKPOINT, "its scheduler/ is not that of Stable Diffusion 1.x, 2.x or SDXL")
    return scaled_linear_schedule(
        predicts, config["beta_start"], config["beta_end"], config.get("num_train_timesteps", 1000)
    )


def _family(unet: Mapping[str, Any], prediction_type: PredictionType) -> Family:
    widths = unet.get("cross_attention_dim"), unet.get("projection_class_embeddings_input_dim")
    for family in FAMILIES.values():
        fits = family.prediction_type in (None, prediction_type) and unet.get("in_channels") == 4
        if fits and widths == (family.cross_attention_width, family.vector_width):
            return family
    raise InputError(CHECKPOINT, f"its unet/ belongs to another family; {supported()}")


def _last_if_cut_off(encoders: Mapping[str, TextEncoder]) -> int | None:
    """Diffusers stores the text encoder of Stable Diffusion 2.x without the layer that is never read."""
    encoder = encoders.get("clip_h")
    return -1 if encoder is not None and encoder.config.num_hidden_layers == 23 else None
