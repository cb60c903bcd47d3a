"""What the text encoders of a family tell its U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...tokens import PROMPT, positions_of, require_tokens, token_name
from ..clip import TextEncoder, body, hidden_layer, prompt_ids, sub_tokens
from ..clip_description import TextEncoderDescription
from ..protocol import Tokenizer
from ..token_rows import ExtendedEmbedding, chosen_rows, new_ids, starting_rows
from .family import UNetFamily


@dataclass(frozen=True)
class EncodedPrompts:
    """What text encoders tell a U-Net about B prompts.

    Attributes:
        hidden: (B, 77, cross_attention_width).
        pooled: (B, width) for families whose U-Net is shown it, else None.
    """

    hidden: Tensor
    pooled: Tensor | None

    def __getitem__(self, chosen: Tensor) -> EncodedPrompts:
        """The prompts at some indices (B,), which may repeat."""
        return self._each(lambda tensor: chosen_rows(tensor, chosen))

    def detached(self) -> EncodedPrompts:
        """The same values as leaves that collect gradients, see `backward`."""
        return self._each(lambda tensor: tensor.detach().requires_grad_())

    def backward(self, leaves: EncodedPrompts) -> None:
        """Carry what `detached` leaves have collected on into the text encoders."""
        pairs = zip((self.hidden, self.pooled), (leaves.hidden, leaves.pooled), strict=True)
        given = [(tensor, leaf.grad) for tensor, leaf in pairs if tensor is not None and leaf is not None]
        torch.autograd.backward([tensor for tensor, _ in given], [gradient for _, gradient in given])

    def _each(self, change: Callable[[Tensor], Tensor]) -> EncodedPrompts:
        return EncodedPrompts(change(self.hidden), None if self.pooled is None else change(self.pooled))

    def conditions(self, sizes: Tensor, owners: Tensor | None = None) -> dict[str, Any]:
        """Keyword arguments of a diffusers U-Net whose layers have an `attention.Attention`.

        Args:
            sizes: (B, 6) of the pictures, as in `TrainingPictures`; shown along with the pooled prompts only.
            owners: (B,) index of each picture's prompt; None: each has its own.
        """
        if owners is not None and len(owners) <= len(self.hidden):
            return self[owners].conditions(sizes)
        conditions: dict[str, Any] = {"encoder_hidden_states": self.hidden}
        pooled = self.pooled
        if owners is not None:
            # fewer prompts than pictures: each layer reads a prompt once
            conditions["cross_attention_kwargs"] = {"owners": owners}
            pooled = None if pooled is None else chosen_rows(pooled, owners)
        if pooled is not None:
            conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        return conditions


class PromptEncoder(nn.Module):
    """All text encoders of a family, extended by one token per reference.

    Args:
        encoders: by embedding key, frozen.
        family: says which layer of each encoder is shown to the U-Net.
        tokenizer: text -> {"input_ids": [start, ..., end]}.
        class_words: one for each reference; a token starts as its word's first pieces, see `starting_rows`.
        vectors: V, of each token.
        mean: a token starts as the mean of its word's pieces.
        layer: overrides the family's layer (the user's "clip skip"), counted from the end, in every encoder that has
            so many layers, as in ComfyUI.
        device: for what is trained, and the prompts; None: that of the encoders.
    """

    columns: Tensor

    def __init__(
        self,
        encoders: Mapping[str, TextEncoder],
        family: UNetFamily,
        tokenizer: Tokenizer,
        class_words: Sequence[str],
        layer: int | None = None,
        vectors: int = 1,
        mean: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.family = family
        self.tokenizer = tokenizer
        self.layer, self.vectors = layer, vectors
        self.names = [token_name(n) for n in range(len(class_words))]
        pieces = [sub_tokens(tokenizer, word) for word in class_words]
        for description in family.text_encoders:
            embeddings = body(self.encoders[description.key]).embeddings
            table = embeddings.token_embedding.weight
            embeddings.token_embedding = ExtendedEmbedding(
                table, starting_rows(table, pieces, vectors, mean).to(device=device)
            )
        texts = [f"{PROMPT} {name}" for name in self.names]
        for key, ids in self.ids(texts).items():
            self.register_buffer(f"ids_{key}", ids.to(device=device), persistent=False)
        columns = [self.positions(text, name) for text, name in zip(texts, self.names, strict=True)]
        self.register_buffer("columns", torch.tensor(columns, device=device), persistent=False)

    def ids(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids (B, 77) of B prompts for each text encoder, by embedding key.

        Raises:
            InputError: a prompt is too long; names "prompt".
        """
        return {d.key: torch.tensor([self._ids(d, text) for text in texts]) for d in self.family.text_encoders}

    def _ids(self, description: TextEncoderDescription, text: str) -> list[int]:
        learned = new_ids(self.names, len(self._table(description.key).weight), self.vectors)
        return prompt_ids(self.tokenizer, text, learned, description.pad_token)

    def require_readable(self, text: str) -> None:
        """Refuse a prompt that is too long, or holds a token's name that was not learned.

        Raises:
            InputError: names "prompt".
        """
        self.ids([text])
        require_tokens(text, self.names)

    def positions(self, text: str, word: str) -> list[int]:
        """Positions 0..76 in a prompt that belong to a word, or a token's name; empty if it does not stand there."""
        first = self.family.text_encoders[0]
        prompt, (_, *pieces) = (self._ids(first, some) for some in (text, word))
        end = self.tokenizer("")["input_ids"][-1]
        return positions_of(pieces[: pieces.index(end)], prompt)

    def rows(self, key: str) -> nn.Parameter:
        """The trained rows (N * V, width) of one text encoder."""
        return self._table(key).rows

    def _table(self, key: str) -> ExtendedEmbedding:
        table: ExtendedEmbedding = body(self.encoders[key]).embeddings.token_embedding
        return table

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained rows by embedding key."""
        return {description.key: self.rows(description.key) for description in self.family.text_encoders}

    def forward(self) -> EncodedPrompts:
        """All that the U-Net is told by "A photo of <vN>", for every reference."""
        return self._encoded({d.key: getattr(self, f"ids_{d.key}") for d in self.family.text_encoders})

    def encode(self, texts: Sequence[str]) -> EncodedPrompts:
        """All that the U-Net is told by B prompts, in which token names stand for what was learned.

        Raises:
            InputError: a prompt is too long; names "prompt".
        """
        return self._encoded({key: ids.to(self.columns.device) for key, ids in self.ids(texts).items()})

    def _encoded(self, ids: Mapping[str, Tensor]) -> EncodedPrompts:
        hidden, pooled = [], None
        for description in self.family.text_encoders:
            encoder = self.encoders[description.key]
            output = encoder(ids[description.key], output_hidden_states=True)
            # the first of the states is the embedding, not a layer
            layer = description.layer
            if self.layer is not None and -self.layer < len(output.hidden_states):
                layer = self.layer
            hidden.append(hidden_layer(encoder, output.hidden_states, layer, description.normalised))
            if description.pooled:
                pooled = output.text_embeds
        return EncodedPrompts(torch.cat(hidden, dim=-1), pooled)
