"""Put a tailoring on a checkpoint."""

from comfy_api.v0_0_2 import io

from .bridge import host
from .bridge.errors import SAME_CHECKPOINT, artist_errors
from .bridge.inputs import strength_input
from .bridge.socket_types import CATEGORY, Tailoring
from .bridge.tailored_model import applied, odd

NAME = "Apply Tailoring"


class MagicTailorApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorApply",
            display_name=NAME,
            category=CATEGORY,
            description="A MODEL and CLIP that know the tailoring: <v0>, <v1> ... work in every prompt after it.",
            search_aliases=["magictailor apply", "apply lora"],
            inputs=[
                io.Model.Input("model", tooltip="A MODEL of the family the tailoring was trained on."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                Tailoring.Input("tailoring", tooltip="From Train or Load Tailoring."),
                strength_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For any sampler."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode: write <v0> with <v1>."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, tailoring, strength):
        with artist_errors(NAME, SAME_CHECKPOINT):
            tailored = applied(model, clip, tailoring, strength)
        host.show_lines(odd(model, clip, tailoring))
        return io.NodeOutput(*tailored)
