"""Show where the model looks for the tokens of a tailoring."""

from collections.abc import Hashable, Sequence

import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..magictailor.backbones.attention_capture import coarse_size, token_column
from ..magictailor.backbones.clip_description import END_OF_TEXT
from ..magictailor.errors import InputError
from ..magictailor.report.heatmaps import captioned, heat_map, require_positions
from ..magictailor.tokens import positions_of
from .apply import applied, strength_input
from .convert import image_from_library, image_to_library
from .errors import artist_errors
from .types import CATEGORY, Tailoring

NAME = "MagicTailor Attention Maps"
WATCHED = ("input", "output")  # the way down and the way up, not the middle


class MagicTailorAttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorAttentionMaps",
            display_name=NAME,
            category=CATEGORY,
            description="Draws where the model looks for <v0>, <v1> ... and other words of a prompt, as heat maps on a "
            "picture: dark is not at all, yellow is most.",
            search_aliases=["magictailor attention", "cross attention", "heat map", "daam"],
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint's MODEL, without the tailoring."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP, without the tailoring."),
                io.Vae.Input("vae", tooltip="The VAE that the picture is encoded with."),
                Tailoring.Input("tailoring", tooltip="From Train or Load Tailoring."),
                io.Image.Input("image", tooltip="The picture to look at: drawn with the prompt, or a photo."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="<v0> with <v1>",
                    tooltip="The prompt to look at it with. Every token in it gets a heat map.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    placeholder="beach, sunset",
                    tooltip="Other words of the prompt to draw as well, with commas between them.",
                ),
                io.Float.Input(
                    "noise_level",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How noisy the picture is when the model looks at it: little noise shows details, much "
                    "shows the layout.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of that noise.",
                ),
                strength_input(advanced=True),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heat_maps",
                    tooltip="One picture for each token and word, for each picture given. Peak is the largest share of "
                    "attention it gets anywhere.",
                )
            ],
        )

    @classmethod
    def execute(cls, model, clip, vae, tailoring, image, prompt, words, noise_level, seed, strength=1.0):
        with artist_errors(NAME):
            model, clip = applied(model, clip, tailoring, strength)
            captions = {t.name: " = ".join(filter(None, (t.name, t.class_word))) for t in tailoring.tokens}
            captions = {name: caption for name, caption in captions.items() if name in prompt}
            captions |= {word: word for word in (part.strip() for part in words.split(",")) if word}
            if not captions:
                raise InputError("prompt", "holds no token of the tailoring; write <v0> or <v1>, or give other words")
            columns = [require_positions(_positions(clip, prompt, word), word) for word in captions]
            maps = _attention(model, clip, vae.encode(image), prompt, columns, noise_level, seed)
        shown = [
            captioned(heat_map(picture, attention), f"{caption}, peak {attention.max():.2g}")
            for picture, of_picture in zip(image_to_library(image), maps, strict=True)
            for caption, attention in zip(captions.values(), of_picture, strict=True)
        ]
        return io.NodeOutput(image_from_library(torch.stack(shown)))


class _Watch:
    """Replaces the host's cross-attention by the same, and keeps what some columns get at the coarsest resolution.

    Args:
        columns: positions in the prompt.
    """

    def __init__(self, columns: Sequence[int]):
        self.columns = columns
        self.collected: list[Tensor] = []  # (B, columns, N)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        if not self.collected or query.shape[1] <= self.collected[-1].shape[-1]:
            if self.collected and query.shape[1] < self.collected[-1].shape[-1]:
                self.collected = []
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


def _attention(
    model, clip, latents: Tensor, prompt: str, columns: Sequence[Sequence[int]], noise_level: float, seed: int
) -> Tensor:
    """What W words get when the model looks at latents (B, C, h, w) under noise: (B, W, h', w') in [0, 1].

    Args:
        columns: positions of each word in the prompt.
    """
    watch = _Watch([column for word in columns for column in word])
    model = model.clone()
    for name in WATCHED:
        for number in range(len(getattr(model.model.diffusion_model, f"{name}_blocks"))):
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


def _positions(clip, prompt: str, word: str) -> list[int]:
    """Positions of a word, or of a token's name, in a prompt as the host reads it: 77 for every chunk."""
    in_prompt, alone = (
        [_comparable(token) for chunk in next(iter(clip.tokenize(text).values())) for token, _ in chunk]
        for text in (prompt, word)
    )
    return positions_of(alone[1 : alone.index(END_OF_TEXT)], in_prompt)


def _comparable(token: int | Tensor) -> Hashable:
    """A token id, or the values of a row that stands in place of one."""
    return tuple(token.tolist()) if isinstance(token, Tensor) else token
