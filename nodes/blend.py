"""Make one tailoring of several."""

from comfy_api.v0_0_2 import io

from ..magictailor.blend import blended
from .bridge import host
from .bridge.errors import artist_errors
from .bridge.inputs import STRENGTHS, TAILORINGS, numbered_inputs
from .bridge.lists import numbers
from .bridge.socket_types import CATEGORY, Tailoring

NAME = "MagicTailor Blend"


class MagicTailorBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorBlend",
            display_name=NAME,
            category=CATEGORY,
            description="Makes one tailoring of several that were learned apart, to wear the component of one on the "
            "concept of another: <anna:v0> with <ben:v1>. It is saved as any other.",
            search_aliases=["magictailor blend", "merge lora", "combine tailorings"],
            inputs=[
                numbered_inputs(
                    "tailorings",
                    Tailoring.Input(
                        "tailoring",
                        tooltip="From Train, Load Tailoring or Name Tokens. No two may have tokens of the same name: "
                        "give each a label with Name Tokens.",
                    ),
                    TAILORINGS,
                    "What becomes one: two or more of the same model family.",
                    least=2,
                ),
                io.String.Input(
                    "strengths",
                    default="1.0, 1.0",
                    tooltip="How strongly each LoRA counts, in the order of the inputs, with commas between them.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Rank of the one LoRA. 0 takes all ranks together, which loses nothing; less makes a "
                    "smaller file. The node says what share of the LoRAs' squared weights is kept.",
                ),
            ],
            outputs=[
                Tailoring.Output(display_name="tailoring", tooltip="For Apply, Tailored Sampler and Save Tailoring."),
                io.String.Output(display_name="words", tooltip="Which token stands for what."),
            ],
        )

    @classmethod
    def execute(cls, tailorings, strengths, rank):
        with artist_errors(NAME, {"tailorings": "give each tailoring a label with Name Tokens"}):
            given = [tailoring for tailoring in tailorings.values() if tailoring is not None]
            tailoring, kept = blended(given, numbers("strengths", strengths, float, STRENGTHS), rank)
        host.show_text(f"rank {tailoring.rank}, {kept:.1%} of the squared weights kept\n{tailoring.words}")
        return io.NodeOutput(tailoring, tailoring.words)
