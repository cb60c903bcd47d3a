"""Put a tailoring on a checkpoint."""

from comfy.sd import load_lora_for_models
from comfy_api.v0_0_2 import io

from ..magictailor.tailoring import Tailoring as LibraryTailoring
from ..magictailor.tailoring import require_family, require_rows
from .checkpoint import family_of_model, require_clip, text_encoders_of
from .errors import artist_errors
from .tailored_clip import tailored_clip
from .types import CATEGORY, Tailoring

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
        with artist_errors(NAME):
            return io.NodeOutput(*applied(model, clip, tailoring, strength))


def strength_input(advanced: bool = False) -> io.Float.Input:
    """How strongly the LoRA of a tailoring is applied."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.01,
        advanced=advanced,
        tooltip="How strongly the LoRA changes the model; 1 is as trained. The tokens are always used whole.",
    )


def applied(model, clip, tailoring: LibraryTailoring, strength: float):
    """Copies of MODEL and CLIP with the tailoring on them.

    Raises:
        InputError: the MODEL or CLIP is of another family than the tailoring.
    """
    family = family_of_model(model)
    require_family(tailoring, family)
    require_clip(family, clip)
    require_rows(tailoring, text_encoders_of(clip))
    tailored_model, _ = load_lora_for_models(model, None, dict(tailoring.lora), strength, 0.0)
    return tailored_model, tailored_clip(clip, tailoring)
