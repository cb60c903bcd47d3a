"""Put pictures, masks and a class word together."""

import torch
from comfy_api.v0_0_2 import io

from ..magictailor.doubts import doubts
from ..magictailor.masks.overlay import overlay
from ..magictailor.pictures import prepare
from ..magictailor.reference import Reference as LibraryReference
from ..magictailor.reference import fitted
from .bridge import host
from .bridge.convert import image_from_library, images_with_alpha, masks_to_library
from .bridge.errors import artist_errors
from .bridge.lists import only
from .bridge.socket_types import CATEGORY, Reference

NAME = "MagicTailor Reference"
OVERLAY_SIDE = 512
UNPAINTED = {"masks": "Load Image gives an empty mask of 64x64 for a picture on which nothing is painted"}


class MagicTailorReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorReference",
            display_name=NAME,
            category=CATEGORY,
            description="One concept or one component: its pictures, a mask for each and an ordinary word for it.",
            search_aliases=["magictailor concept", "magictailor component", "reference images"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="1 or more pictures of it, as a batch or a list; three are usual."),
                io.Mask.Input(
                    "masks",
                    tooltip="One mask for each picture, white where to learn: from GroundedSAM Masks, the mask editor "
                    "or any other node. The concept's masks leave the component's place out.",
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    placeholder="tower",
                    tooltip="An ordinary word for it: tower, person, hair, roof. Its new token starts from this word.",
                ),
                Reference.Input(
                    "otherwise",
                    optional=True,
                    # never asked for: the frontend passes it through where this node is bypassed
                    lazy=True,
                    tooltip="A ready reference, such as Load MagicTailor Pair's: it goes on in place of this one when "
                    "this node is bypassed (Ctrl+B), and is not looked at when it is not.",
                ),
            ],
            outputs=[
                Reference.Output(display_name="reference", tooltip="Connect it to Train as concept or component."),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="What will be learned: the pictures as they are cropped for training, the mask tinted.",
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, **inputs):
        return []

    @classmethod
    def execute(cls, images, masks, class_word, otherwise=None):
        with artist_errors(NAME):
            pictures = images_with_alpha(images)
            painted = masks_to_library(masks)
            if len(painted) == len(pictures):
                with artist_errors(NAME, UNPAINTED):
                    painted = [fitted(m, p.shape[1:]) for m, p in zip(painted, pictures, strict=True)]
            reference = LibraryReference(only("class_word", class_word), tuple(pictures), tuple(painted))
            host.show_lines(doubts([reference]))
            cropped, small_masks = prepare(reference, OVERLAY_SIDE)
            shown = torch.stack([overlay(i, m[0]) for i, m in zip(cropped, small_masks, strict=True)])
        return io.NodeOutput(reference, image_from_library(shown))
