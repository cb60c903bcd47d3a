"""What the text encoders of Stable Diffusion 3 tell its transformer.

The prompt is a row of positions: 77 for the CLIP encoders, whose outputs lie side by side, then 77 for T5. A part whose
encoders are all missing is left out; a CLIP encoder that is missing beside the other one is zeros. Padding is not
masked. That is how ComfyUI reads a prompt, and Stability AI's reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from ...tokens import PROMPT, positions_of, require_tokens, token_name
from .. import clip, t5
from ..clip import PROMPT_LENGTH, TextEncoder
from ..protocol import Tokenizer
from ..token_rows import ExtendedEmbedding, chosen_rows, new_ids, starting_rows
from .family import T5, TransformerFamily

T5_LENGTH = 77


@dataclass(frozen=True)
class EncodedPrompts:
    """What text encoders tell a transformer about B prompts.

    Attributes:
        hidden: (B, L, prompt_width), L is 77 for CLIP or T5 alone and 154 for both.
        pooled: (B, vector_width) of the CLIP encoders.
    """

    hidden: Tensor
    pooled: Tensor

    def __getitem__(self, chosen: Tensor) -> EncodedPrompts:
        """The prompts at some indices (B,), which may repeat."""
        return EncodedPrompts(chosen_rows(self.hidden, chosen), chosen_rows(self.pooled, chosen))

    def detached(self) -> EncodedPrompts:
        """The same values as leaves that collect gradients, see `backward`."""
        return EncodedPrompts(self.hidden.detach().requires_grad_(), self.pooled.detach().requires_grad_())

    def backward(self, leaves: EncodedPrompts) -> None:
        """Carry what `detached` leaves have collected on into the text encoders."""
        pairs = [(self.hidden, leaves.hidden.grad), (self.pooled, leaves.pooled.grad)]
        # without a CLIP encoder the pooled prompts are zeros
        tensors, gradients = zip(*((t, gradient) for t, gradient in pairs if t.requires_grad), strict=True)
        torch.autograd.backward(tensors, gradients)

    def conditions(self, owners: Tensor | None = None) -> dict[str, Any]:
        """Keyword arguments of diffusers' `SD3Transformer2DModel`.

        Args:
            owners: (B,) index of each picture's prompt; None: each has its own.
        """
        # every picture changes its own copy of the prompt on the way through the blocks
        prompts = self if owners is None else self[owners]
        return {"encoder_hidden_states": prompts.hidden, "pooled_projections": prompts.pooled}


class PromptEncoder(nn.Module):
    """The text encoders that are there, extended by one token per reference.

    Args:
        encoders: by embedding key, frozen; one or more of the family's.
        family: says how their outputs are joined.
        tokenizers: by embedding key; all CLIP encoders share the one that is found first.
        class_words: one for each reference; a token starts as its word's first pieces, see `starting_rows`.
        vectors: V, of each token.
        mean: a token starts as the mean of its word's pieces.
        layer: overrides the layers that are shown (the user's "clip skip"), counted from the end, in every encoder that
            has so many, as in ComfyUI.
        device: for what is trained, and the prompts; None: that of the encoders.
    """

    columns: Tensor

    def __init__(
        self,
        encoders: Mapping[str, TextEncoder | T5EncoderModel],
        family: TransformerFamily,
        tokenizers: Mapping[str, Tokenizer],
        class_words: Sequence[str],
        layer: int | None = None,
        vectors: int = 1,
        mean: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({key: encoders[key] for key in family.embedding_keys if key in encoders})
        self.family = family
        self.layer, self.vectors = layer, vectors
        self.clip = [description for description in family.text_encoders if description.key in encoders]
        self.tokenizers = {T5: tokenizers[T5]} if T5 in encoders else {}
        if self.clip:
            shared = next(tokenizers[d.key] for d in family.text_encoders if d.key in tokenizers)
            self.tokenizers |= {description.key: shared for description in self.clip}
        self.names = [token_name(n) for n in range(len(class_words))]
        self.tables = {key: self._extended(key, class_words, mean, device) for key in self.encoders}
        texts = [f"{PROMPT} {name}" for name in self.names]
        for key, ids in self.ids(texts).items():
            self.register_buffer(f"ids_{key}", ids.to(device=device), persistent=False)
        columns = [self.positions(text, name) for text, name in zip(texts, self.names, strict=True)]
        self.register_buffer("columns", torch.tensor(columns, device=device), persistent=False)

    def _extended(
        self, key: str, class_words: Sequence[str], mean: bool, device: torch.device | None
    ) -> ExtendedEmbedding:
        encoder: Any = self.encoders[key]
        read = t5 if key == T5 else clip
        table = encoder.get_input_embeddings().weight
        pieces = [read.sub_tokens(self.tokenizers[key], word) for word in class_words]
        extended = ExtendedEmbedding(table, starting_rows(table, pieces, self.vectors, mean).to(device=device))
        encoder.set_input_embeddings(extended)
        return extended

    def ids(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids (B, 77) of B prompts for each text encoder, by embedding key.

        Raises:
            InputError: a prompt is too long; names "prompt".
        """
        return {key: torch.tensor([self._ids(key, text) for text in texts]) for key in self.encoders}

    def _ids(self, key: str, text: str) -> list[int]:
        size = len(self.tables[key].weight)
        learned = new_ids(self.names, size, self.vectors)
        if key == T5:
            return t5.prompt_ids(self.tokenizers[key], text, learned, T5_LENGTH)
        description = next(d for d in self.clip if d.key == key)
        return clip.prompt_ids(self.tokenizers[key], text, learned, description.pad_token)

    def require_readable(self, text: str) -> None:
        """Refuse a prompt that is too long, or holds a token's name that was not learned.

        Raises:
            InputError: names "prompt".
        """
        self.ids([text])
        require_tokens(text, self.names)

    def positions(self, text: str, word: str) -> list[int]:
        """Positions among the text keys that belong to a word, or a token's name: those of CLIP, then those of T5."""
        found: list[int] = []
        if self.clip:
            key = self.clip[0].key
            _, *pieces = self._ids(key, word)
            end = self.tokenizers[key]("")["input_ids"][-1]
            found += positions_of(pieces[: pieces.index(end)], self._ids(key, text))
        if T5 in self.encoders:
            pieces = self._ids(T5, word)
            places = positions_of(pieces[: pieces.index(t5.END)], self._ids(T5, text))
            found += [place + (PROMPT_LENGTH if self.clip else 0) for place in places]
        return found

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained rows (N * V, width) by embedding key."""
        return {key: table.rows for key, table in self.tables.items()}

    def forward(self) -> EncodedPrompts:
        """All that the transformer is told by "A photo of <vN>", for every reference."""
        return self._encoded({key: getattr(self, f"ids_{key}") for key in self.encoders})

    def encode(self, texts: Sequence[str]) -> EncodedPrompts:
        """All that the transformer is told by B prompts, in which token names stand for what was learned.

        Raises:
            InputError: a prompt is too long; names "prompt".
        """
        return self._encoded({key: ids.to(self.columns.device) for key, ids in self.ids(texts).items()})

    def _encoded(self, ids: Mapping[str, Tensor]) -> EncodedPrompts:
        family, parts, pooled = self.family, [], {}
        encoder: Any
        if self.clip:
            hidden = {}
            for description in self.clip:
                key = description.key
                encoder = self.encoders[key]
                output = encoder(ids[key], output_hidden_states=True)
                layer = self._layer(description.layer, len(output.hidden_states) - 1)
                hidden[key] = clip.hidden_layer(encoder, output.hidden_states, layer, description.normalised)
                # CLIP-L is shown without a projection, or by diffusers with one that changes nothing
                projected = isinstance(encoder, CLIPTextModelWithProjection)
                pooled[key] = output.text_embeds if projected else output.pooler_output
            parts.append(joined(hidden, family, family.prompt_width))
        if T5 in self.encoders:
            encoder = self.encoders[T5]
            parts.append(t5.hidden_layer(encoder, ids[T5], self._layer(-1, len(encoder.encoder.block))))
        first = parts[0]
        vector = (
            joined(pooled, family, family.vector_width) if pooled else first.new_zeros(len(first), family.vector_width)
        )
        return EncodedPrompts(torch.cat([part.to(first.dtype) for part in parts], dim=1), vector)

    def _layer(self, usual: int, layers: int) -> int:
        return usual if self.layer is None or -self.layer > layers else self.layer


def joined(parts: Mapping[str, Tensor], family: TransformerFamily, width: int) -> Tensor:
    """Outputs (..., w) of the CLIP encoders side by side, zeros where one is missing, filled up with zeros to a width.

    Args:
        parts: by embedding key; one or more.
    """
    known = next(iter(parts.values()))
    side_by_side = [
        parts[description.key] if description.key in parts else known.new_zeros(*known.shape[:-1], own)
        for description, own in zip(family.text_encoders, family.clip_widths, strict=True)
    ]
    together = torch.cat(side_by_side, dim=-1)
    return F.pad(together, (0, width - together.shape[-1]))
