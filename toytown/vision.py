"""The toy town's CLIP: a vision and a text encoder of transformers' own classes that judge what the model draws.

The file has transformers' names, which ComfyUI's CLIP_VISION and CLIP have too. It was trained on colours and patterns
that the generator never saw, as a real CLIP has seen more than any checkpoint.
"""

from __future__ import annotations

import pathlib

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from .model import FOLDER, PROMPT_LENGTH, load_vocabulary
from .vocabulary import END, START

WEIGHTS = FOLDER / "vision.safetensors"
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": PROMPT_LENGTH,
    "hidden_act": "quick_gelu",
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
}
WIDTH = 64  # of the space that both share; the host's text projection is square


def new_clip() -> CLIPModel:
    """An untrained one."""
    vocabulary = load_vocabulary()
    end = vocabulary[END]
    ids = {"bos_token_id": vocabulary[START], "eos_token_id": end, "pad_token_id": end}
    return CLIPModel(
        CLIPConfig(
            text_config={**TEXT, "vocab_size": len(vocabulary), "projection_dim": WIDTH, **ids},
            vision_config={**VISION, "projection_dim": WIDTH},
            projection_dim=WIDTH,
        )
    )


def normalised(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64) in [0, 1] as the vision encoder reads them."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (pictures - mean) / deviation


def load_clip(path: pathlib.Path = WEIGHTS) -> CLIPModel:
    """Both encoders with the weights of a file, in float32."""
    clip = new_clip()
    clip.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return clip.eval().requires_grad_(False)
