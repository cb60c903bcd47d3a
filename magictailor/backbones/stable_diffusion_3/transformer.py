"""The transformer of a checkpoint: diffusers' module made of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from ..module_weights import filled
from .transformer_shape import transformer_config

# Stability AI's names on the left, diffusers' on the right
_OUTSIDE = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_IN_BLOCKS = {
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
# one matrix that holds queries, keys and values below each other
_JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def build_transformer(state: Mapping[str, Tensor]) -> SD3Transformer2DModel:
    """The transformer of a checkpoint, frozen.

    Args:
        state: in the layout of Stability AI's reference implementation, keys from "joint_blocks.0...".

    Raises:
        InputError: weights are missing or left over; names "model".
    """
    config = transformer_config(state)
    # on no device, for the table of positions alone would be as large as the weights
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**config)
    return filled(transformer, dict(renamed(state, config["num_layers"])), "model")


def renamed(state: Mapping[str, Tensor], blocks: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors under diffusers' names; parts of matrices are views. A name that is not known is kept.

    Args:
        blocks: number of blocks.
    """
    last_context = f"joint_blocks.{blocks - 1}.context_block.adaLN_modulation.1"
    for key, tensor in state.items():
        stem, dot, ending = key.rpartition(".")
        if stem in ("final_layer.adaLN_modulation.1", last_context):
            # diffusers has the scale before the shift where there is nothing else
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if not key.startswith("joint_blocks."):
            name = _OUTSIDE.get(stem)
            yield (f"{name}.{ending}" if name else _OUTSIDE.get(key, key)), tensor
            continue
        _, number, inner = stem.split(".", 2)
        prefix = f"transformer_blocks.{number}."
        if inner in _JOINED:
            for name, part in zip(_JOINED[inner], tensor.chunk(3), strict=True):
                yield f"{prefix}{name}.{ending}", part
        else:
            yield f"{prefix}{_IN_BLOCKS.get(inner, inner)}.{ending}", tensor
