"""What the shapes of a U-Net's weights tell, in the layout of CompVis' latent-diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import InputError
from .family import UNetFamily


def unet_config(state: Mapping[str, Tensor], family: UNetFamily) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` read off the shapes of an LDM state dict.

    Raises:
        InputError: blocks are missing, as in pruned models.
    """
    levels = _unet_levels(state)
    _require_whole(state, levels)
    channels = [level.channels for level in levels]
    attends = [level.depths[0] > 0 for level in levels]
    config = {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": len(levels[0].depths),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "transformer_layers_per_block": tuple(max(level.depths[0], 1) for level in levels),
        "cross_attention_dim": family.cross_attention_width,
        # diffusers' name says dim, but it counts heads
        "attention_head_dim": _heads(family, channels),
        "use_linear_projection": state["middle_block.1.proj_in.weight"].ndim == 2,
    }
    if family.vector_width is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": family.size_embedding_width,
            "projection_class_embeddings_input_dim": family.vector_width,
        }
    return config


def _heads(family: UNetFamily, channels: Sequence[int]) -> int | tuple[int, ...]:
    if family.head_width is None:
        assert family.attention_heads is not None
        return family.attention_heads
    return tuple(width // family.head_width for width in channels)


@dataclass
class _Level:
    """One resolution of a U-Net's way down: its width, and the transformer depth of each of its layers."""

    channels: int
    depths: list[int]


def _unet_levels(state: Mapping[str, Tensor]) -> list[_Level]:
    levels = [_Level(0, [])]
    number = 1
    while any(key.startswith(f"input_blocks.{number}.") for key in state):
        if f"input_blocks.{number}.0.op.weight" in state:
            levels.append(_Level(0, []))
        else:
            levels[-1].channels = state[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0]
            levels[-1].depths.append(_transformer_depth(state, f"input_blocks.{number}.1."))
        number += 1
    return levels


def _require_whole(state: Mapping[str, Tensor], levels: Sequence[_Level]) -> None:
    """The way up has to mirror the way down, with one layer more on each level."""
    layers = len(levels[0].depths)
    regular = layers > 0 and all(level.depths == level.depths[:1] * layers for level in levels)
    up = [level.depths[0] for level in reversed(levels) for _ in range(layers + 1)] if regular else []
    found = [_transformer_depth(state, f"output_blocks.{n}.1.") for n in range(len(up))]
    beyond = any(key.startswith(f"output_blocks.{len(up)}.") for key in state)
    middle = _transformer_depth(state, "middle_block.1.")
    if not regular or beyond or found != up or middle != max(levels[-1].depths[0], 1):
        raise InputError(
            "model",
            "its U-Net lacks blocks of its family, as pruned models such as SSD-1B, Vega and KOALA do; "
            "use a checkpoint of the full size",
        )


def _transformer_depth(state: Mapping[str, Tensor], prefix: str) -> int:
    depth = 0
    while f"{prefix}transformer_blocks.{depth}.attn2.to_k.weight" in state:
        depth += 1
    return depth


def watched_blocks(state: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """The blocks, ("input" or "output", number), whose cross-attention the attention loss reads.

    Those of the coarsest level that has any, on the way down and on the way up, not in the middle: the same that
    `attention.watched_layers` names in diffusers' module.
    """
    levels = _unet_levels(state)
    coarsest = max(number for number, level in enumerate(levels) if level.depths[0])
    layers = len(levels[0].depths)
    # the first input block is a convolution, and one between two levels shrinks
    down = 1 + coarsest * (layers + 1)
    up = (len(levels) - 1 - coarsest) * (layers + 1)
    return [("input", down + n) for n in range(layers)] + [("output", up + n) for n in range(layers + 1)]
