"""Where the host's own network looks for the words of a prompt."""

from collections.abc import Callable, Container, Hashable, Sequence
from functools import partial

import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...magictailor.backbones.attention_capture import attend_and_share, coarse_size, token_column
from ...magictailor.backbones.stable_diffusion import unet_shape
from ...magictailor.backbones.stable_diffusion_3 import TransformerFamily, transformer_shape
from ...magictailor.tokens import positions_of
from .backbones import family_of_model, text_encoders_of

# what looks more than once, or at more than the prompt
GUIDANCE = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "disable_cfg1_optimization",
)
CLIP_ENCODERS = ("clip_l", "clip_h", "clip_g")


def attention(
    model, clip, latents: Tensor, prompt: str, columns: Sequence[Sequence[int]], noise_level: float, seed: int
) -> Tensor:
    """What W words get when the model looks at latents (B, C, h, w) under noise: (B, W, h', w') in [0, 1].

    Args:
        columns: positions of each word in the prompt.
    """
    model = model.clone()
    for guidance in GUIDANCE:
        model.model_options.pop(guidance, None)
    watch = (_watch_joint if isinstance(family_of_model(model), TransformerFamily) else _watch_cross)(
        model, latents, columns
    )
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
    return mean.unflatten(-1, coarse_size(latents.shape[-2:], mean.shape[-1])).cpu()


def positions(clip, prompt: str, word: str) -> list[int]:
    """Positions of a word, or of a token's name, among the text keys as the host reads a prompt.

    77 for every chunk of CLIP, whose encoders lie side by side; then those of T5.
    """
    connected = text_encoders_of(clip)
    in_prompt, alone = clip.tokenize(prompt), clip.tokenize(word)
    found, before = [], 0
    for key in (next((key for key in CLIP_ENCODERS if key in connected), None), "t5xxl"):
        if key not in connected:
            continue
        tokenizer, name = getattr(clip.tokenizer, key), key.removeprefix("clip_")
        read, pieces = (
            [_comparable(token) for chunk in chunks[name] for token, _ in chunk] for chunks in (in_prompt, alone)
        )
        pieces = pieces[tokenizer.tokens_start : pieces.index(tokenizer.end_token)]
        found += [before + place for place in positions_of(pieces, read)]
        before += len(read)
    return found


def _watch_cross(model, latents: Tensor, columns: Sequence[Sequence[int]]) -> "_CrossWatch":
    watch = _CrossWatch(columns)
    given = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for block in unet_shape.watched_blocks(model.model.diffusion_model.state_dict()):
        # of a block, or of one transformer in it, which comes first
        for place in {block, *(place for place in given if place[:2] == block)}:
            model.set_model_attn2_replace(partial(watch, given.get(place, given.get(block, _attend))), *place)
    return watch


def _watch_joint(model, latents: Tensor, columns: Sequence[Sequence[int]]) -> "_JointWatch":
    network = model.model.diffusion_model
    height, width = (-(-side // network.patch_size) for side in latents.shape[-2:])
    blocks = transformer_shape.watched_blocks(len(network.joint_blocks))
    watch = _JointWatch(columns, height * width, blocks)
    options = model.model_options["transformer_options"]
    given = options.get("optimized_attention_override")
    options["optimized_attention_override"] = partial(watch, given or _unchanged)
    return watch


class _CrossWatch:
    """Stands before the cross-attention of the host's U-Net, and keeps what some words get.

    Args:
        columns: positions of each word in the prompt.
    """

    def __init__(self, columns: Sequence[Sequence[int]]):
        self.columns = columns
        self.collected: list[Tensor] = []  # (B, words, N)

    def __call__(self, attend: Callable, query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        self.collected.append(self._shares(query, key, options["n_heads"]))
        return attend(query, key, value, options)

    def _shares(self, query: Tensor, key: Tensor, heads: int) -> Tensor:
        query, key = (_by_head(states, heads) for states in (query, key))
        scale = query.shape[-1] ** -0.5

        def share(column: int) -> Tensor:
            return token_column(query, key, torch.full((len(query),), column, device=query.device), scale)

        return torch.stack([torch.stack([share(column) for column in word]).sum(0) for word in self.columns], dim=1)


class _JointWatch:
    """Stands before the attention of the host's MM-DiT, and keeps what some words get of the picture's attention.

    Args:
        columns: positions of each word among the text keys, which the host has before the image's.
        positions: of the image.
        blocks: numbers of those that are watched.
    """

    def __init__(self, columns: Sequence[Sequence[int]], positions: int, blocks: Container[int]):
        self.columns, self.positions, self.blocks = columns, positions, blocks
        self.block = 0
        self.collected: list[Tensor] = []  # (B, words, N)

    def __call__(
        self, given, attend, query: Tensor, key: Tensor, value: Tensor, heads: int, *more, **options
    ) -> Tensor:
        text = query.shape[1] - self.positions
        # a second attention is among image positions alone
        if text > 0:
            if self.block in self.blocks:
                self.collected.append(self._shares(query[:, text:], key, heads))
            self.block += 1
        return given(attend, query, key, value, heads, *more, **options)

    def _shares(self, query: Tensor, key: Tensor, heads: int) -> Tensor:
        query, key = (_by_head(states, heads) for states in (query, key))
        places = (torch.tensor([word] * len(query), device=query.device) for word in self.columns)
        return torch.stack([attend_and_share(query, key, key, columns)[1] for columns in places], dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
    """The cross-attention of a block that nothing replaces."""
    return optimized_attention(
        query, key, value, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options
    )


def _unchanged(attend, *arguments, **options) -> Tensor:
    return attend(*arguments, **options)


def _by_head(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _comparable(token: int | Tensor) -> Hashable:
    """A token id, or the values of a row that stands in place of one."""
    return tuple(token.tolist()) if isinstance(token, Tensor) else token
