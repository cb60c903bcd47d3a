"""The joint attention of Stable Diffusion 3, and what the attention loss reads off it.

Pictures and prompt are two streams that meet in every block: the queries of both attend to the keys of both. The
attention of image positions on a word is read as follows.

Whole softmax. A position's share is its weight among all keys, image and text: that is the factor by which the word's
value reaches it, as the cross-attention probability is in a U-Net. Divided by the text's share alone, places that
hardly look at the text would count as much as those that do.

Middle half of the blocks, n / 4 up to 3 n / 4 of n. MM-DiT has one resolution, so "the coarsest layers" are not there
to be taken; what a U-Net's coarse layers are for, deciding what is where, happens in the middle of its depth. In the
first blocks image positions still are little but noise and place, in the last ones they are about detail, and at the
very end the prompt leaves. Kim et al. 2025 (arXiv 2509.18096) find in Stable Diffusion 3, too, that single blocks
ground words and most do not. The second attention of Stable Diffusion 3.5 medium is among image positions alone and has
no words to look at.

Looked at in a toy: an MM-DiT of 8 blocks, trained for 262 steps on two coloured things named by two words. How often a
place on the thing gets more attention than one beside it (sigma 0.6; 0.5 is chance): blocks 0 to 7 of the whole softmax
.78 .67 .57 .71 .88 .90 .93 .98, of the text's share .83 .78 .60 .75 .90 .83 .82 .94; halves first .88, middle .93, last
.99. So the first quarter is out and the whole softmax is right where it matters; that real models turn from place to
detail towards their end, a toy of plain colours cannot show.

Size of the map: that of the patches, 2 x 2 latents or 16 x 16 pixels each; the only one there is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor

from ..attention_capture import AttentionCapture, attend_and_share
from .transformer_shape import watched_blocks


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention: query (B, heads, N, d); key, value (B, heads, L, d) -> (B, heads, N, d)."""
    return F.scaled_dot_product_attention(query, key, value)


class JointAttention:
    """A diffusers attention processor that shows its capture what the prompt gets.

    Args:
        capture: is shown what watched positions get; None: this layer is not watched.
    """

    def __init__(self, capture: AttentionCapture | None) -> None:
        self.capture = capture

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        positions, heads = hidden_states.shape[1], attn.heads
        query = _by_head(attn.to_q(hidden_states), heads, attn.norm_q)
        key = _by_head(attn.to_k(hidden_states), heads, attn.norm_k)
        value = _by_head(attn.to_v(hidden_states), heads)
        if encoder_hidden_states is not None:
            text = encoder_hidden_states
            key = torch.cat([key, _by_head(attn.add_k_proj(text), heads, attn.norm_added_k)], dim=2)
            value = torch.cat([value, _by_head(attn.add_v_proj(text), heads)], dim=2)
            # the last block's prompt leads nowhere
            if not attn.context_pre_only:
                query = torch.cat([query, _by_head(attn.add_q_proj(text), heads, attn.norm_added_q)], dim=2)
        if self.capture is None or self.capture.columns is None:
            mixed = attend(query, key, value)
        else:
            mixed, share = attend_and_share(query, key, value, self.capture.columns + positions)
            self.capture.collect(share[:, :positions])
        mixed = mixed.transpose(1, 2).flatten(2)
        out_projection, dropout = attn.to_out
        image = dropout(out_projection(mixed[:, :positions]))
        if encoder_hidden_states is None:
            return image
        return image, None if attn.context_pre_only else attn.to_add_out(mixed[:, positions:])


def _by_head(states: Tensor, heads: int, norm: Any = None) -> Tensor:
    """Projected states (B, N, heads * d) -> (B, heads, N, d), normalised if there is a norm."""
    states = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return states if norm is None else norm(states)


def watch_attention(transformer: SD3Transformer2DModel) -> AttentionCapture:
    """Give every layer a `JointAttention`; those that the loss needs show what they do."""
    capture = AttentionCapture()
    watched = watched_blocks(len(transformer.transformer_blocks))
    for number, block in enumerate(transformer.transformer_blocks):
        block.attn.set_processor(JointAttention(capture if number in watched else None))
        if block.attn2 is not None:
            block.attn2.set_processor(JointAttention(None))
    return capture
