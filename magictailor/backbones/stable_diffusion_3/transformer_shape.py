"""What the shapes of a transformer's weights tell, in the layout of Stability AI's reference implementation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import InputError

HEAD_WIDTH = 64


def transformer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SD3Transformer2DModel` read off the shapes of a state dict.

    Raises:
        InputError: parts are missing; names "model".
    """
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("joint_blocks.")}
    lacking = {"final_layer.linear.weight", "pos_embed"} - state.keys()
    if lacking or blocks != set(range(len(blocks))):
        raise InputError("model", f"its transformer lacks parts ({', '.join(sorted(lacking)) or 'blocks'})")
    width, channels, patch = state["x_embedder.proj.weight"].shape[:3]
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": state["final_layer.linear.weight"].shape[0] // patch**2,
        "num_layers": len(blocks),
        "attention_head_dim": HEAD_WIDTH,
        "num_attention_heads": width // HEAD_WIDTH,
        "joint_attention_dim": state["context_embedder.weight"].shape[1],
        "caption_projection_dim": width,
        "pooled_projection_dim": state["y_embedder.mlp.0.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(state["pos_embed"].shape[1]),
        "dual_attention_layers": tuple(
            n for n in sorted(blocks) if f"joint_blocks.{n}.x_block.attn2.qkv.weight" in state
        ),
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in state else None,
    }


def watched_blocks(count: int) -> range:
    """Numbers of the blocks, of so many, whose joint attention the attention loss reads: the middle half."""
    return range(-(-count // 4), -(-3 * count // 4))
