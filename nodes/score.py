"""Say how well pictures have what was learned."""

from comfy_api.v0_0_2 import io

from ..magictailor.errors import InputError
from ..magictailor.formats.csv_table import as_csv
from ..magictailor.scores.table import scored
from ..magictailor.tokens import in_words
from .bridge import host
from .bridge.convert import images_to_library, masks_to_library
from .bridge.encoders import FURTHER, encoders_of, further_of
from .bridge.errors import artist_errors
from .bridge.inputs import encoders_input, numbered_inputs, reference_inputs
from .bridge.lists import only
from .bridge.references import COMPONENTS, compared_with
from .bridge.socket_types import CATEGORY, Scores, Tailoring

NAME = "MagicTailor Score"
OF_COMPONENT = " masks"


class MagicTailorScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorScore",
            display_name=NAME,
            category=CATEGORY,
            description="Says in numbers how well pictures have what was learned: likeness to the concept and to each "
            "component, background copied from the references, agreement with the prompt.",
            search_aliases=["magictailor score", "clip score", "clip-i", "clip-t", "dino", "similarity", "likeness"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Drawn pictures, as a batch or as a list; their sizes may differ."),
                *reference_inputs(),
                encoders_input(),
                io.Mask.Input(
                    "concept_masks",
                    optional=True,
                    tooltip="Where the concept is on each picture, from GroundedSAM Masks or any other node: only that "
                    "is compared. Without, the whole picture is.",
                ),
                numbered_inputs(
                    "component_masks",
                    io.Mask.Input("masks", tooltip="Where this component is on each picture."),
                    [name + OF_COMPONENT for name in COMPONENTS],
                    "Where the components are on each picture. Without, the whole picture is compared.",
                    least=0,
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Reads the prompt, to say how well the pictures agree with it. It has to be trained with "
                    "one of the CLIP_VISIONs: clip_l from Load CLIP with ViT-L/14, a checkpoint's larger one with H or "
                    "bigG.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="<v0> with <v1>",
                    optional=True,
                    tooltip="What was to be drawn; used with clip only. <v0>, <v1> ... are read as the class words of "
                    "the references. One for all pictures, or a list with one for each.",
                ),
                Tailoring.Input(
                    "tailoring",
                    optional=True,
                    tooltip="In place of concept and components: a tailoring that carries small copies of what it was "
                    "learned from. Train's does, a file does if it was saved with reference_pictures.",
                ),
                io.Combo.Input(
                    "further_measures",
                    options=list(FURTHER),
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="DreamSim and LPIPS, beside the CLIP_VISIONs, as 1 less their distance. They need "
                    "the packages dreamsim and lpips, and their weights in models/dreamsim and models/lpips; nothing "
                    "is downloaded.",
                ),
            ],
            outputs=[
                Scores.Output(display_name="scores", tooltip="For MagicTailor Pick."),
                io.String.Output(
                    display_name="text",
                    tooltip="A line for each picture, their mean, and the references among themselves: more than that "
                    "a drawn picture can hardly reach.",
                ),
                io.String.Output(display_name="csv", tooltip="The same numbers for Save Text, in its format csv."),
                io.Float.Output(
                    display_name="likeness",
                    is_output_list=True,
                    tooltip="One number for each picture: the mean of its likeness to the concept and the components.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, encoders, concept=(None,), components=None, concept_masks=None, component_masks=None, clip=None,
        prompt=(), tailoring=(None,), further_measures=("none",),
    ):  # fmt: skip
        with artist_errors(NAME):
            pictures = images_to_library(images)
            single = {name: only(name, some) for name, some in (components or {}).items()}
            carrying = [given for given in (only("tailoring", tailoring),) if given is not None]
            references = compared_with(only("concept", concept), single, carrying)
            masks = [concept_masks, *_of_components(component_masks or {}, len(references) - 1)]
            prompts = []
            if clip is not None:
                words = [reference.class_word for reference in references]
                prompts = [in_words(text, words) for text in prompt]
                prompts = prompts * len(pictures) if len(prompts) == 1 else prompts
            seeing = {name: only(name, some) for name, some in encoders.items()}
            asked = encoders_of(seeing, clip and only("clip", clip))
            asked += further_of(only("further_measures", further_measures))
            found = scored(
                pictures,
                references,
                asked,
                [None if given is None else masks_to_library(given) for given in masks],
                prompts,
            )
        host.show_text(found.text)
        numbered = [{"picture": n, **row} for n, row in enumerate(found.rows(), 1)]
        return io.NodeOutput(found, found.text, as_csv(numbered), found.likeness)


def _of_components(component_masks, count: int):
    """The masks of each component, None for one that has none."""
    for name in list(component_masks):
        if name not in [component + OF_COMPONENT for component in COMPONENTS[:count]]:
            raise InputError(name, "is connected, but there is no such component")
    return [component_masks.get(component + OF_COMPONENT) for component in COMPONENTS[:count]]
