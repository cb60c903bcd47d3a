"""MagicTailor for ComfyUI: wear the component of one thing on the concept of another."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .nodes import NODES
from .nodes.bridge.leaving import watch_for_the_end
from .nodes.bridge.model_folders import register_model_folders

WEB_DIRECTORY = "./web"


class MagicTailorExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_model_folders()
        watch_for_the_end()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MagicTailorExtension:
    return MagicTailorExtension()
