"""T5 text encoders, and prompts with new words as they read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from ..errors import InputError
from ..tokens import split_at_tokens
from .module_weights import filled
from .protocol import Tokenizer

PAD, END = 0, 1
BARE_SPACE = 3  # the piece "▁", which stands before a word that has no piece with a space of its own

_TABLE = "shared.weight"
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def sub_tokens(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of the pieces the tokenizer cuts a word into, one or more (its output has an end token alone)."""
    return [piece for piece in tokenizer(word)["input_ids"] if piece not in (BARE_SPACE, END)] or [BARE_SPACE]


def prompt_ids(tokenizer: Tokenizer, text: str, new_ids: Mapping[str, list[int]], length: int) -> list[int]:
    """Ids of a prompt padded to a length, with the ids of a new token's vectors where its name stands.

    Args:
        new_ids: those of its vectors by token name.

    Raises:
        InputError: the prompt is too long; names "prompt".
    """
    words: list[int] = []
    for piece in split_at_tokens(text, list(new_ids)):
        words += new_ids[piece] if piece in new_ids else tokenizer(piece)["input_ids"][:-1]
    if len(words) >= length:
        raise InputError("prompt", f"is {len(words)} pieces of words long; T5 is given {length - 1} at most")
    return [*words, END] + [PAD] * (length - len(words) - 1)


def build_t5_encoder(state: Mapping[str, Tensor]) -> T5EncoderModel:
    """A T5 v1.1 encoder, frozen.

    Args:
        state: transformers' layout; a decoder is left out.

    Raises:
        InputError: weights are missing; names "clip".
    """
    if _TABLE not in state or _BIAS not in state:
        raise InputError("clip", "has no T5 text encoder of the kind this checkpoint's family uses")
    heads = state[_BIAS].shape[1]
    config = T5Config(
        vocab_size=state[_TABLE].shape[0],
        d_model=state[_TABLE].shape[1],
        d_kv=state["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0] // heads,
        d_ff=state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        num_layers=1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.block.")),
        num_heads=heads,
        relative_attention_num_buckets=state[_BIAS].shape[0],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        encoder = T5EncoderModel(config)
    # the same table under a second name, which files hold or leave out
    state = {**state, "encoder.embed_tokens.weight": state[_TABLE]}
    named = {key: state[key] for key in encoder.state_dict() if key in state}
    return filled(encoder, named, "clip").eval()


def t5_dtype(precision: torch.dtype) -> torch.dtype:
    """What T5 computes in; its hidden states overflow in float16."""
    return torch.bfloat16 if precision == torch.float16 else precision


def hidden_layer(encoder: T5EncoderModel, ids: Tensor, layer: int) -> Tensor:
    """One hidden layer for B prompts, normalised: (B, L, width). Padding is read like any word.

    Args:
        ids: (B, L).
        layer: counted from the end, -1 is the last.
    """
    output = encoder(ids, output_hidden_states=layer != -1)
    if layer == -1:
        return output.last_hidden_state
    return encoder.encoder.final_layer_norm(output.hidden_states[layer])


def t5_tokenizer(folder: Path) -> Tokenizer | None:
    """T5's tokenizer in a folder; None if there is none, or another model's."""
    if not ((folder / "tokenizer.json").is_file() or (folder / "spiece.model").is_file()):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found = tokenizer("")["input_ids"] == [END]
    except (OSError, ValueError, TypeError):
        found = False
    return tokenizer if found else None
