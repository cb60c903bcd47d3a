"""The new tokens: their names, their rows in the embedding tables, and the prompts they are learned with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel

from .families import Family

TOKEN = re.compile(r"<v(\d+)>")
PROMPT = "A photo of"
PROMPT_LENGTH = 77

Tokenizer = Callable[[str], Mapping[str, list[int]]]


def token_name(number: int) -> str:
    """`<v0>` is the concept, `<v1>` the first component, and so on."""
    return f"<v{number}>"


def split_at_tokens(text: str, names: Sequence[str]) -> list[str]:
    """Cut a text so that every known token name stands alone; joining the pieces gives the text back."""
    if not names:
        return [text]
    pattern = "|".join(re.escape(name) for name in names)
    return [piece for piece in re.split(f"({pattern})", text) if piece]


def first_sub_token(tokenizer: Tokenizer, word: str) -> int:
    """Id of the first piece the tokenizer cuts a word into (its output starts with the start token)."""
    return tokenizer(word)["input_ids"][1]


def training_prompt(tokenizer: Tokenizer, new_id: int, pad_token: int) -> tuple[list[int], int]:
    """Ids of "A photo of <vN>" padded to 77, and the position of the new token in them."""
    start, *words, end = tokenizer(PROMPT)["input_ids"]
    ids = [start, *words, new_id, end]
    return ids + [pad_token] * (PROMPT_LENGTH - len(ids)), ids.index(new_id)


class ExtendedEmbedding(nn.Module):
    """A frozen embedding table with a few trained rows after its end.

    Args:
        table: (V, width), not trained.
        rows: (N, width) first values of ids V..V+N-1; trained, float32.
    """

    def __init__(self, table: Tensor, rows: Tensor):
        super().__init__()
        self.weight = nn.Parameter(table, requires_grad=False)
        self.rows = nn.Parameter(rows.clone().float())

    def forward(self, ids: Tensor) -> Tensor:
        size = len(self.weight)
        old = F.embedding(ids.clamp_max(size - 1), self.weight).to(self.rows.dtype)
        new = F.embedding((ids - size).clamp_min(0), self.rows)
        return torch.where((ids >= size).unsqueeze(-1), new, old)


class PromptEncoder(nn.Module):
    """All text encoders of a family, extended by one token per reference.

    Args:
        encoders: by embedding key, frozen.
        family: says which layer of each encoder is shown to the U-Net.
        tokenizer: text -> {"input_ids": [start, ..., end]}.
        class_words: one for each reference; a token starts as its word's first sub-token.
        layer: overrides the family's layer (the user's "clip skip"), counted from the end.
    """

    def __init__(
        self,
        encoders: Mapping[str, CLIPTextModel],
        family: Family,
        tokenizer: Tokenizer,
        class_words: Sequence[str],
        layer: int | None = None,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.family = family
        self.layer = layer
        starts = [first_sub_token(tokenizer, word) for word in class_words]
        for description in family.text_encoders:
            embeddings = _body(self.encoders[description.key]).embeddings
            table = embeddings.token_embedding.weight
            embeddings.token_embedding = ExtendedEmbedding(table, table[starts])
            prompts = [
                training_prompt(tokenizer, len(table) + n, description.pad_token) for n in range(len(class_words))
            ]
            self.register_buffer(f"ids_{description.key}", torch.tensor([ids for ids, _ in prompts]), persistent=False)
        self.register_buffer("columns", torch.tensor([column for _, column in prompts]), persistent=False)

    def rows(self, key: str) -> nn.Parameter:
        """The trained rows (N, width) of one text encoder."""
        return _body(self.encoders[key]).embeddings.token_embedding.rows

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained rows by embedding key."""
        return {description.key: self.rows(description.key) for description in self.family.text_encoders}

    def forward(self) -> Tensor:
        """Hidden states of "A photo of <vN>" for every reference, (N, 77, cross_attention_width)."""
        return torch.cat(
            [
                hidden_states(
                    self.encoders[d.key],
                    getattr(self, f"ids_{d.key}"),
                    d.layer if self.layer is None else self.layer,
                    normalised=d.normalised,
                )
                for d in self.family.text_encoders
            ],
            dim=-1,
        )


def hidden_states(encoder: CLIPTextModel, ids: Tensor, layer: int, *, normalised: bool) -> Tensor:
    """One hidden layer of a CLIP text encoder for prompts (B, 77): (B, 77, width).

    Args:
        layer: counted from the end, -1 is the last.
        normalised: apply the final layer norm to it.
    """
    hidden = encoder(ids, output_hidden_states=True).hidden_states[layer]
    return _body(encoder).final_layer_norm(hidden) if normalised else hidden


def _body(encoder: CLIPTextModel) -> nn.Module:
    # transformers 4 wraps the encoder once more than transformers 5
    return getattr(encoder, "text_model", encoder)
