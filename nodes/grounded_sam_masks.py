"""Outline what a word names."""

from comfy_api.v0_0_2 import io

from ..magictailor.masks.overlay import overlay
from .bridge import host
from .bridge.convert import image_from_library, images_to_library
from .bridge.errors import artist_errors
from .bridge.letters import letter_notes
from .bridge.lists import for_each, only
from .bridge.packages import needed_packages
from .bridge.socket_types import CATEGORY, GroundedSAM

NAME = "GroundedSAM Masks"
WHEN_NOTHING_FOUND = ("stop", "empty mask")  # what the library knows


class MagicTailorGroundedSAM(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def threshold(name: str, default: float, tooltip: str, advanced: bool = False):
            return io.Float.Input(
                name, default=default, min=0.0, max=1.0, step=0.01, advanced=advanced, tooltip=tooltip
            )

        return io.Schema(
            node_id="MagicTailorGroundedSAM",
            display_name=NAME,
            category=CATEGORY,
            description="Outlines what a word names on every picture: always one mask for each picture.",
            search_aliases=["magictailor masks", "segment anything", "text to mask", "grounding dino", "mask by text"],
            is_input_list=True,
            inputs=[
                GroundedSAM.Input("grounded_sam", tooltip="From Load GroundedSAM."),
                io.Image.Input("images", tooltip="Pictures, as a batch or as a list; their sizes may differ."),
                io.String.Input(
                    "find",
                    default="",
                    placeholder="house",
                    tooltip="What to outline, in English: house. Several things, separated by commas, are outlined "
                    "together: shirt, trousers.",
                ),
                io.String.Input(
                    "exclude",
                    default="",
                    placeholder="roof",
                    tooltip="What to leave out. For a concept, name the component here (find house, exclude roof). "
                    "Empty: nothing is left out.",
                ),
                threshold(
                    "box_threshold", 0.25, "Lower it if something is not found, raise it if the wrong thing is found."
                ),
                threshold(
                    "text_threshold", 0.25, "How sure the detector must be of a word to count it as recognised.", True
                ),
                threshold(
                    "nms_threshold",
                    0.8,
                    "Of two boxes for the same thing that overlap by more than this, the better one is kept.",
                    True,
                ),
                io.Combo.Input(
                    "when_nothing_found",
                    options=list(WHEN_NOTHING_FOUND),
                    default=WHEN_NOTHING_FOUND[0],
                    tooltip="stop: an error names the picture and the best score. empty mask: that picture gets a "
                    "black mask, which you then have to paint.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One mask for each picture, in order, at its size; white is what was found.",
                ),
                io.Image.Output(
                    display_name="overlay",
                    is_output_list=True,
                    tooltip="Each picture with its mask tinted, and boxes with words and scores. 'not' marks what was "
                    "left out.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, grounded_sam, images, find, exclude, box_threshold, text_threshold, nms_threshold, when_nothing_found
    ):
        with artist_errors(NAME):
            pictures = images_to_library(images)
            words = [for_each(name, texts, len(pictures)) for name, texts in (("find", find), ("exclude", exclude))]
            models = only("grounded_sam", grounded_sam)
            settings = [
                only(name, values)
                for name, values in (
                    ("box_threshold", box_threshold),
                    ("text_threshold", text_threshold),
                    ("nms_threshold", nms_threshold),
                    ("when_nothing_found", when_nothing_found),
                )
            ]
        bar = host.progress_bar(len(pictures))

        def on_image(done: int) -> None:
            host.check_interrupted()
            bar.update_absolute(done)

        with artist_errors(NAME), host.outside_inference_mode():
            host.free_memory()
            try:
                results = models.to(host.torch_device()).masks(pictures, *words, *settings, on_image)
            finally:
                models.to(host.offload_device())
        with needed_packages(NAME):
            notes = letter_notes("".join(label for result in results for label in result.labels()))
            shown = [
                overlay(picture, result.mask, result.boxes(), result.labels())
                for picture, result in zip(pictures, results, strict=True)
            ]
        host.show_lines(notes)
        return io.NodeOutput(
            [result.mask[None] for result in results], [image_from_library(picture[None]) for picture in shown]
        )
