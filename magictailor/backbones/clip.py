"""CLIP text encoders, and prompts with new words as they read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..errors import InputError
from ..tokens import split_at_tokens
from .clip_description import END_OF_TEXT, TextEncoderDescription
from .module_weights import filled
from .protocol import Tokenizer

PROMPT_LENGTH = 77
CLIP_VOCABULARY = "openai/clip-vit-large-patch14"

TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


def sub_tokens(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of the pieces the tokenizer cuts a word into, one or more (its output has a start and an end token)."""
    _, *pieces, end = tokenizer(word)["input_ids"]
    return pieces or [end]


def prompt_ids(tokenizer: Tokenizer, text: str, new_ids: Mapping[str, list[int]], pad_token: int) -> list[int]:
    """Ids of a prompt padded to 77, with the ids of a new token's vectors where its name stands.

    Args:
        new_ids: those of its vectors by token name.

    Raises:
        InputError: the prompt is too long; names "prompt".
    """
    start, *_, end = tokenizer("")["input_ids"]
    words: list[int] = []
    for piece in split_at_tokens(text, list(new_ids)):
        words += new_ids[piece] if piece in new_ids else tokenizer(piece)["input_ids"][1:-1]
    ids = [start, *words, end]
    if len(ids) > PROMPT_LENGTH:
        raise InputError("prompt", f"is {len(words)} pieces of words long; CLIP reads {PROMPT_LENGTH - 2} at most")
    return ids + [pad_token] * (PROMPT_LENGTH - len(ids))


def build_text_encoder(
    state: Mapping[str, Tensor],
    description: TextEncoderDescription,
    attention: str = "eager",
) -> TextEncoder:
    """A CLIP text encoder, frozen; with its projection if the family shows the U-Net its pooled output.

    Args:
        state: keys with or without the "text_model." prefix; what the family does not use is left out.
        attention: its implementation by transformers' name, see `text_attention`.

    Raises:
        InputError: weights are missing.
    """
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    table = state.get("embeddings.token_embedding.weight")
    if table is None:
        raise InputError("clip", "has no CLIP text encoder of the kind this checkpoint's family uses")
    width = table.shape[1]
    layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers."))
    config = CLIPTextConfig(
        vocab_size=table.shape[0],
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // description.head_width,
        max_position_embeddings=state["embeddings.position_embedding.weight"].shape[0],
        hidden_act=description.activation,
        projection_dim=width,
        eos_token_id=END_OF_TEXT,
        attn_implementation=attention,
    )
    with init_empty_weights():
        encoder = (CLIPTextModelWithProjection if description.pooled else CLIPTextModel)(config)
    # with and without a projection, transformers 4 and 5 differ in where they write "text_model."
    bare = {key: key.removeprefix("text_model.") for key in encoder.state_dict()}
    named = {key: state[name] for key, name in bare.items() if name in state}
    return filled(encoder, named, "clip").eval()


def text_attention(device: torch.device) -> str:
    """The implementation of attention, by transformers' name, that a text encoder trains fastest with."""
    # see .stable_diffusion.attention.attend
    return "eager" if device.type == "cpu" else "sdpa"


def from_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an OpenCLIP text encoder in transformers' layout."""
    # under the prefix of Stable Diffusion 2.x diffusers would leave out the last layer
    width = SimpleNamespace(config=SimpleNamespace(hidden_size=state["ln_final.weight"].shape[0]))
    return convert_open_clip_checkpoint(width, {f"openclip.{key}": t for key, t in state.items()}, prefix="openclip.")


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
        raise InputError("tokenizer", f"{reason}; give {where}")
    return tokenizer


def hidden_layer(encoder: nn.Module, states: Sequence[Tensor], layer: int, normalised: bool) -> Tensor:
    """One hidden layer of a CLIP text encoder for B prompts, (B, 77, width).

    Args:
        states: transformers' `hidden_states`, from the embedding to the last layer.
        layer: counted from the end, -1 is the last.
        normalised: apply the final layer norm to it.
    """
    return body(encoder).final_layer_norm(states[layer]) if normalised else states[layer]


def body(encoder: nn.Module) -> Any:
    """The encoder without its projection."""
    # transformers 4 wraps the encoder once more than transformers 5; both wrap the one with a projection
    return getattr(encoder, "text_model", encoder)
