"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, in the layout of CompVis' latent-diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...config import TailorConfig
from ...errors import InputError
from .. import build
from ..autoencoder import build_decoder, decode
from ..clip import clip_tokenizer, from_openclip
from ..module_weights import below
from ..protocol import Backbone, CheckpointFile, CheckpointWeights
from .schedule import scaled_linear_schedule
from .unet import LDM_UNET_PREFIX

CHECKPOINT = "pretrained_model_name_or_path"

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


@dataclass(frozen=True)
class SingleFileCheckpoint:
    """What was found in a file."""

    weights: CheckpointWeights

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> Backbone:
        return build(self.weights, class_words, config, device)

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        autoencoder = build_decoder(self.weights.autoencoder).to(device, torch.float32)
        return lambda latents: decode(autoencoder, latents)


def open_file(file: CheckpointFile) -> SingleFileCheckpoint | None:
    """See `Family.open_file`."""
    state = file.state
    unet = below(state, LDM_UNET_PREFIX)
    if "input_blocks.0.0.weight" not in unet:
        return None
    for key, sampling in _OTHER_SAMPLINGS.items():
        if key in state:
            raise InputError(CHECKPOINT, f"{file.name} is sampled with {sampling}, which is not known here")
    weights = CheckpointWeights(
        network=unet,
        text_encoders=_text_encoders(state),
        autoencoder=below(state, _AUTOENCODER_PREFIX),
        schedule=scaled_linear_schedule(file.prediction_type or _predicts(state)),
        tokenizers={"clip": clip_tokenizer(file.tokenizer)},
    )
    return SingleFileCheckpoint(weights)


def _text_encoders(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state of each text encoder in transformers' layout, by embedding key."""
    found = {}
    for prefix in _TEXT_ENCODER_PREFIXES:
        encoder = below(state, prefix)
        if encoder and prefix.endswith("model."):
            encoder = from_openclip(encoder)
        table = next((t for key, t in encoder.items() if key.endswith("embeddings.token_embedding.weight")), None)
        if table is not None:
            found[_KEYS_BY_WIDTH.get(table.shape[1], f"a text encoder {table.shape[1]} wide")] = encoder
    return found


def _predicts(state: Mapping[str, Tensor]) -> str:
    """By the marks ComfyUI goes by: a key in SDXL files, the wide spread of one bias in Stable Diffusion 2.x."""
    bias = state.get(f"{LDM_UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    context = state.get(f"{LDM_UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight")
    spread = (
        bias is not None
        and context is not None
        and context.shape[1] == 1024
        and bias.float().std(unbiased=False) > 0.09
    )
    return "v_prediction" if spread or "v_pred" in state else "epsilon"
