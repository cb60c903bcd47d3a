"""Show where the model looks for the tokens of a tailoring."""

import torch
from comfy_api.v0_0_2 import io

from ..magictailor.errors import InputError
from ..magictailor.tokens import require_tokens
from .bridge import host
from .bridge.convert import image_from_library, image_to_library
from .bridge.errors import SAME_CHECKPOINT, artist_errors
from .bridge.inputs import strength_input
from .bridge.letters import letter_notes
from .bridge.packages import needed_packages
from .bridge.socket_types import CATEGORY, Tailoring
from .bridge.tailored_clip import known_tokens
from .bridge.tailored_model import applied, odd

NAME = "MagicTailor Attention Maps"


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
        with needed_packages(NAME), artist_errors(NAME, SAME_CHECKPOINT):
            from ..magictailor.report.heatmaps import captioned, heat_map, require_positions
            from .bridge.attention import attention, positions

            pictures = image_to_library(image, "image")
            tailored = applied(model, clip, tailoring, strength)
            notes = odd(model, clip, tailoring)
            model, clip = tailored
            for name, text in (("prompt", prompt), ("words", words)):
                require_tokens(text, known_tokens(clip), name)
            captions = {t.name: " = ".join(filter(None, (t.name, t.class_word))) for t in tailoring.tokens}
            captions = {name: caption for name, caption in captions.items() if name in prompt}
            captions |= {word: word for word in (part.strip() for part in words.split(",")) if word}
            if not captions:
                raise InputError("prompt", "holds no token of the tailoring; write <v0> or <v1>, or give other words")
            columns = [require_positions(positions(clip, prompt, word), word) for word in captions]
            maps = attention(model, clip, vae.encode(image_from_library(pictures)), prompt, columns, noise_level, seed)
        shown = [
            captioned(heat_map(picture, shares), f"{caption}, peak {shares.max():.2g}")
            for picture, of_picture in zip(pictures, maps, strict=True)
            for caption, shares in zip(captions.values(), of_picture, strict=True)
        ]
        notes += letter_notes("".join(captions.values()))
        host.show_lines(notes)
        return io.NodeOutput(image_from_library(torch.stack(shown)))
