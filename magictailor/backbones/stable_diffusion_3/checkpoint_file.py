"""Single-file checkpoints of Stable Diffusion 3 and 3.5, as Stability AI and ComfyUI lay them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config import TailorConfig
from ...errors import InputError
from .. import build
from ..autoencoder import build_decoder, decode
from ..clip import clip_tokenizer
from ..module_weights import below
from ..protocol import Backbone, CheckpointFile, CheckpointWeights, Tokenizer
from ..t5 import t5_tokenizer
from .family import FIRST_BLOCK, T5
from .schedule import RectifiedFlow

CHECKPOINT = "pretrained_model_name_or_path"
T5_FOLDERS = (".", "tokenizer_3", "../tokenizer_3", "../text_encoders/t5_tokenizer")
"""Where T5's vocabulary lies beside CLIP's: in diffusers' folders, and in ComfyUI."""

_NETWORK_PREFIX = "model.diffusion_model."
_AUTOENCODER_PREFIX = "first_stage_model."
_TEXT_ENCODERS = {key: f"text_encoders.{key}.transformer." for key in ("clip_l", "clip_g", T5)}


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
    network = below(file.state, _NETWORK_PREFIX)
    if FIRST_BLOCK not in network:
        return None
    encoders = {key: below(file.state, prefix) for key, prefix in _TEXT_ENCODERS.items()}
    encoders = {key: state for key, state in encoders.items() if state}
    if not encoders:
        raise InputError(
            CHECKPOINT, f"{file.name} holds no text encoder; take one that has them, or a diffusers folder"
        )
    weights = CheckpointWeights(
        network=network,
        text_encoders=encoders,
        autoencoder=below(file.state, _AUTOENCODER_PREFIX),
        schedule=RectifiedFlow(),
        tokenizers=tokenizers(encoders, file.tokenizer),
    )
    return SingleFileCheckpoint(weights)


def tokenizers(encoders: Mapping[str, object], folder: Path | None) -> dict[str, Tokenizer]:
    """The tokenizers of some text encoders, by embedding key; the CLIP encoders share one.

    Args:
        folder: with CLIP's vocabulary, T5's in it or beside it (`T5_FOLDERS`); None: CLIP's is in transformers' cache.

    Raises:
        InputError: a vocabulary is missing; names "tokenizer".
    """
    found: dict[str, Tokenizer] = {}
    if T5 in encoders:
        candidates = () if folder is None else (folder / place for place in T5_FOLDERS)
        tokenizer = next(filter(None, map(t5_tokenizer, candidates)), None)
        if tokenizer is None:
            raise InputError(
                "tokenizer",
                "the checkpoint has a T5 text encoder, whose vocabulary is neither in that folder nor beside it; give "
                "the folder tokenizer of Stable Diffusion 3 in diffusers' layout, or comfy/sd1_tokenizer of a ComfyUI",
            )
        found[T5] = tokenizer
    if set(encoders) - {T5}:
        found["clip_l"] = clip_tokenizer(folder)
    return found
