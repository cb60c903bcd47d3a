"""Load Grounding DINO and Segment Anything."""

from comfy_api.v0_0_2 import io

from .bridge import host
from .bridge.errors import artist_errors
from .bridge.model_folders import DINO_FOLDER, SAM_FOLDER, bert_folder, located, model_files
from .bridge.packages import needed_packages
from .bridge.socket_types import CATEGORY, GroundedSAM

NAME = "Load GroundedSAM"
DEVICES = ("auto", "cpu")  # what the library knows


class MagicTailorGroundedSAMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorGroundedSAMLoader",
            display_name=NAME,
            category=CATEGORY,
            description="Loads the two models that turn words into masks: Grounding DINO finds the thing, Segment "
            "Anything (SAM) outlines it. Reads files you have; downloads nothing.",
            search_aliases=["magictailor load sam", "grounding dino loader", "segment anything loader", "sam loader"],
            inputs=[
                io.Combo.Input(
                    "grounding_dino",
                    options=model_files(DINO_FOLDER, "groundingdino_swint_ogc.pth"),
                    tooltip="Finds boxes for words. Put groundingdino_swint_ogc.pth (or the larger "
                    "groundingdino_swinb_cogcoor.pth) into models/grounding-dino, and vocab.txt of bert-base-uncased "
                    "into models/bert-base-uncased; then press R.",
                ),
                io.Combo.Input(
                    "sam",
                    options=model_files(SAM_FOLDER, "sam_vit_h_4b8939.pth"),
                    tooltip="Outlines what is in a box. Put sam_vit_h_4b8939.pth (best), sam_vit_l_0b3195.pth or "
                    "sam_vit_b_01ec64.pth (small and quick) into models/sams; then press R.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default=DEVICES[0],
                    optional=True,
                    advanced=True,
                    tooltip="auto: the graphics card while masks are made, but the CPU on a Mac, whose GPU is known to "
                    "find other things. cpu: always the CPU, where the card has no memory to spare.",
                ),
            ],
            outputs=[
                GroundedSAM.Output(display_name="grounded_sam", tooltip="Both models, for GroundedSAM Masks."),
            ],
        )

    @classmethod
    def execute(cls, grounding_dino, sam, device=DEVICES[0]):
        # weights made in the host's inference mode could not be moved to the device later
        with needed_packages(NAME), artist_errors(NAME), host.outside_inference_mode():
            from ..magictailor.masks.grounded_sam import load_grounded_sam

            loaded = load_grounded_sam(
                located(DINO_FOLDER, grounding_dino, "grounding_dino"),
                located(SAM_FOLDER, sam, "sam"),
                bert_folder(),
                device,
            )
        return io.NodeOutput(loaded)
