"""Where the host's own U-Net looks for the words of a prompt."""

from collections.abc import Hashable, Sequence

import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...magictailor.backbones.attention_capture import coarse_size, token_column
from ...magictailor.backbones.stable_diffusion import UNetFamily
from ...magictailor.backbones.stable_diffusion.unet_shape import watched_blocks
from ...magictailor.errors import InputError
from ...magictailor.tokens import positions_of
from .backbones import family_of_model, tokenizer_of


def require_cross_attention(model) -> None:
    """Refuse a MODEL of a kind whose attention on the prompt cannot be read here.

    Raises:
        InputError: names "model".
    """
    family = family_of_model(model)
    if not isinstance(family, UNetFamily):
        raise InputError(
            "model",
            f"is {family.title}, in which text and picture attend to each other in one layer, and that is not drawn "
            "here; the report of MagicTailor Train shows where it looks for each token",
        )


def attention(
    model, clip, latents: Tensor, prompt: str, columns: Sequence[Sequence[int]], noise_level: float, seed: int
) -> Tensor:
    """What W words get when the model looks at latents (B, C, h, w) under noise: (B, W, h', w') in [0, 1].

    Args:
        columns: positions of each word in the prompt.
    """
    watch = _Watch([column for word in columns for column in word])
    model = model.clone()
    for name, number in watched_blocks(model.model.diffusion_model.state_dict()):
        model.set_model_attn2_replace(watch, name, number)
    sigma = model.get_model_object("model_sampling").sigma(torch.tensor(noise_level * 999)).item()
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    # one step of sampling is one look; without guidance it is at the prompt alone
    comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latents, seed),
        1.0,
        comfy.samplers.sampler_object("euler"),
        torch.tensor([sigma, 0.0]),
        positive,
        positive,
        latents,
        disable_pbar=True,
        seed=seed,
    )
    mean = torch.stack(watch.collected).mean(0)
    words = [pieces.sum(1) for pieces in mean.split([len(word) for word in columns], dim=1)]
    return torch.stack(words, dim=1).unflatten(-1, coarse_size(latents.shape[-2:], mean.shape[-1])).cpu()


def positions(clip, prompt: str, word: str) -> list[int]:
    """Positions of a word, or of a token's name, in a prompt as the host reads it: 77 for every chunk."""
    in_prompt, alone = (
        [_comparable(token) for chunk in next(iter(clip.tokenize(text).values())) for token, _ in chunk]
        for text in (prompt, word)
    )
    end = tokenizer_of(clip)("")["input_ids"][-1]
    return positions_of(alone[1 : alone.index(end)], in_prompt)


class _Watch:
    """Replaces the host's cross-attention by the same, and keeps what some columns get.

    Args:
        columns: positions in the prompt.
    """

    def __init__(self, columns: Sequence[int]):
        self.columns = columns
        self.collected: list[Tensor] = []  # (B, columns, N)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        self.collected.append(self._shares(query, key, options["n_heads"]))
        return optimized_attention(
            query, key, value, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options
        )

    def _shares(self, query: Tensor, key: Tensor, heads: int) -> Tensor:
        query, key = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (query, key))
        scale = query.shape[-1] ** -0.5
        batch = len(query)
        return torch.stack(
            [
                token_column(query, key, torch.full((batch,), column, device=query.device), scale)
                for column in self.columns
            ],
            dim=1,
        )


def _comparable(token: int | Tensor) -> Hashable:
    """A token id, or the values of a row that stands in place of one."""
    return tuple(token.tolist()) if isinstance(token, Tensor) else token
