"""Sample with a tailoring, in one node."""

from comfy_api.v0_0_2 import io

from nodes import common_ksampler

from ..magictailor.tokens import require_tokens
from .bridge import host
from .bridge.errors import SAME_CHECKPOINT, artist_errors
from .bridge.inputs import strength_input
from .bridge.sampler_cache import kept
from .bridge.sampling import chosen, described, sampling_inputs
from .bridge.socket_types import CATEGORY, Tailoring
from .bridge.tailored_clip import known_tokens
from .bridge.tailored_model import odd

NAME = "Tailored Sampler"


class MagicTailorSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorSampler",
            display_name=NAME,
            category=CATEGORY,
            description="Draws with a tailoring: applies it, encodes the prompts in which <v0>, <v1> ... stand for "
            "what was learned, and samples. The same as Apply Tailoring, CLIP Text Encode and KSampler.",
            search_aliases=["magictailor sampler", "ksampler", "magictailor generate"],
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint's MODEL, without the tailoring."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP, without the tailoring."),
                Tailoring.Input("tailoring", tooltip="From Train or Load Tailoring."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latents to start from: empty ones, or a picture's with denoise below 1.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="<v0> with <v1>",
                    tooltip="What to draw. <v0> is the concept, <v1> the first component, <v2> the second. 'and', "
                    "'including' and 'containing' work as well as 'with'.",
                ),
                io.String.Input(
                    "negative_prompt", multiline=True, dynamic_prompts=True, default="", tooltip="What not to draw."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                *sampling_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 draws anew; less keeps more of the latents given.",
                ),
                strength_input(advanced=True),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Replaces the prompt, for ControlNet and so on. Make it with the CLIP of Apply Tailoring.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Replaces the negative prompt."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="For VAE Decode."),
                io.Model.Output(display_name="model", tooltip="The tailored MODEL, for a second pass."),
                io.Conditioning.Output(display_name="positive", tooltip="What was drawn, for a second pass."),
                io.Conditioning.Output(display_name="negative", tooltip="What was not drawn, for a second pass."),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, tailoring, latent_image, prompt, negative_prompt, seed, steps, cfg, sampler_name, scheduler,
        denoise, strength, positive=None, negative=None,
    ):  # fmt: skip
        with artist_errors(NAME, SAME_CHECKPOINT):
            tailored = kept(model, clip, tailoring, strength)
            for name, text, given in (("prompt", prompt, positive), ("negative_prompt", negative_prompt, negative)):
                if given is None:
                    require_tokens(text, known_tokens(tailored.clip), name)
        written = tailored.conditioning(
            prompt if positive is None else None, negative_prompt if negative is None else None
        )
        positive, negative = (
            text if given is None else given for text, given in zip(written, (positive, negative), strict=True)
        )
        sampling = chosen(tailoring.family.sampler, steps, cfg, sampler_name, scheduler)
        host.show_text("\n".join([described(sampling), *odd(model, clip, tailoring)]))
        (latent,) = common_ksampler(tailored.model, seed, *sampling, positive, negative, latent_image, denoise=denoise)
        return io.NodeOutput(latent, tailored.model, positive, negative)
