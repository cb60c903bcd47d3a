"""Masks from words: load Grounding DINO and Segment Anything, and outline what a word names."""

import os
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..magictailor.errors import InputError
from ..magictailor.masks.grounded_sam import WHEN_NOTHING_FOUND, load_grounded_sam
from ..magictailor.masks.overlay import overlay
from . import host
from .convert import image_from_library, images_to_library
from .errors import artist_errors
from .types import CATEGORY, GroundedSAM

LOADER_NAME = "Load GroundedSAM"
MASKS_NAME = "GroundedSAM Masks"

DINO_FOLDER, SAM_FOLDER, BERT_FOLDER = "grounding-dino", "sams", "bert-base-uncased"
_MODEL_SUFFIXES = (".pth", ".pt", ".safetensors", ".sft")


def register_model_folders() -> None:
    """Make models/grounding-dino, models/sams and models/bert-base-uncased known to the host.

    Only adds: paths from extra_model_paths.yaml, and from other packs that use the same names, stay and come first.
    """
    for name in (DINO_FOLDER, SAM_FOLDER, BERT_FOLDER):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


class MagicTailorGroundedSAMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorGroundedSAMLoader",
            display_name=LOADER_NAME,
            category=CATEGORY,
            description="Loads the two models that turn words into masks: Grounding DINO finds the thing, Segment "
            "Anything (SAM) outlines it. Reads files you have; downloads nothing.",
            search_aliases=["magictailor load sam", "grounding dino loader", "segment anything loader", "sam loader"],
            inputs=[
                io.Combo.Input(
                    "grounding_dino",
                    options=_model_files(DINO_FOLDER, "groundingdino_swint_ogc.pth"),
                    tooltip="Finds boxes for words. Put groundingdino_swint_ogc.pth (or the larger "
                    "groundingdino_swinb_cogcoor.pth) into models/grounding-dino, and vocab.txt of bert-base-uncased "
                    "into models/bert-base-uncased; then press R.",
                ),
                io.Combo.Input(
                    "sam",
                    options=_model_files(SAM_FOLDER, "sam_vit_h_4b8939.pth"),
                    tooltip="Outlines what is in a box. Put sam_vit_h_4b8939.pth (best), sam_vit_l_0b3195.pth or "
                    "sam_vit_b_01ec64.pth (small and quick) into models/sams; then press R.",
                ),
            ],
            outputs=[
                GroundedSAM.Output(display_name="grounded_sam", tooltip=f"Both models, for {MASKS_NAME}."),
            ],
        )

    @classmethod
    def execute(cls, grounding_dino, sam):
        # Weights made in the host's inference mode could not be moved to the device later.
        with artist_errors(LOADER_NAME), host.outside_inference_mode():
            loaded = load_grounded_sam(
                _located(DINO_FOLDER, grounding_dino, "grounding_dino"),
                _located(SAM_FOLDER, sam, "sam"),
                _bert_folder(),
            )
        return io.NodeOutput(loaded)


class MagicTailorGroundedSAM(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def threshold(name: str, default: float, tooltip: str, advanced: bool = False):
            return io.Float.Input(
                name, default=default, min=0.0, max=1.0, step=0.01, advanced=advanced, tooltip=tooltip
            )

        return io.Schema(
            node_id="MagicTailorGroundedSAM",
            display_name=MASKS_NAME,
            category=CATEGORY,
            description="Outlines what a word names on every picture: always one mask for each picture.",
            search_aliases=["magictailor masks", "segment anything", "text to mask", "grounding dino", "mask by text"],
            is_input_list=True,
            inputs=[
                GroundedSAM.Input("grounded_sam", tooltip=f"From {LOADER_NAME}."),
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
        pictures = images_to_library(images)
        bar = host.progress_bar(len(pictures))

        def on_image(done: int) -> None:
            host.check_interrupted()
            bar.update_absolute(done)

        models = grounded_sam[0]
        with artist_errors(MASKS_NAME), host.outside_inference_mode():
            host.free_memory()
            try:
                results = models.to(host.torch_device()).masks(
                    pictures,
                    find[0],
                    exclude[0],
                    box_threshold[0],
                    text_threshold[0],
                    nms_threshold[0],
                    when_nothing_found[0],
                    on_image,
                )
            finally:
                models.to(host.offload_device())
            shown = [
                overlay(picture, result.mask, result.boxes(), result.labels())
                for picture, result in zip(pictures, results, strict=True)
            ]
        return io.NodeOutput(
            [result.mask[None] for result in results], [image_from_library(picture[None]) for picture in shown]
        )


def _model_files(folder: str, example: str) -> list[str]:
    """The model files in a folder; if there are none, one entry that says what to put where."""
    files = [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(_MODEL_SUFFIXES)]
    return files or [f"put {example} into models/{folder}"]


def _located(folder: str, name: str, field: str) -> str:
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise InputError(field, f'There is no "{name}" in models/{folder}. Put the file there, press R and choose it.')
    return path


def _bert_folder() -> Path:
    """The first registered folder with a vocabulary; else the host's own, so that the error says where to put one."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(BERT_FOLDER)]
    for folder in folders:
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            return folder
    return Path(folder_paths.models_dir) / BERT_FOLDER
