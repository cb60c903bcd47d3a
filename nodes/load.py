"""Load a saved tailoring."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..magictailor.files import load_tailoring
from .errors import artist_errors
from .types import CATEGORY, Tailoring

NAME = "Load Tailoring"


class MagicTailorLoad(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorLoad",
            display_name=NAME,
            category=CATEGORY,
            description="Loads a file that Save Tailoring wrote, from the loras folder.",
            search_aliases=["magictailor load", "load lora"],
            inputs=[
                io.Combo.Input(
                    "tailoring",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="A file in the loras folder that Save Tailoring wrote. Ordinary LoRAs go into Load LoRA.",
                ),
            ],
            outputs=[
                Tailoring.Output(display_name="tailoring", tooltip="For Tailored Sampler and Apply Tailoring."),
                io.String.Output(display_name="words", tooltip="Which token stands for what."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, tailoring):
        stat = _path(tailoring).stat()
        return [stat.st_mtime_ns, stat.st_size]

    @classmethod
    def execute(cls, tailoring):
        with artist_errors(NAME):
            loaded = load_tailoring(_path(tailoring))
        return io.NodeOutput(loaded, ", ".join(f"{token.name} = {token.class_word}" for token in loaded.tokens))


def _path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise("loras", name))
