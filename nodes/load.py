"""Load a saved tailoring."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..magictailor.errors import InputError
from ..magictailor.formats.released_program import LORA_FILE, TABLE_FILE, is_released
from ..magictailor.formats.tailoring_file import load_tailoring
from .bridge.errors import artist_errors
from .bridge.socket_types import CATEGORY, Tailoring

NAME = "Load Tailoring"
NOTHING_SAVED = "save a tailoring, then press R"


class MagicTailorLoad(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorLoad",
            display_name=NAME,
            category=CATEGORY,
            description="Loads a file that Save Tailoring wrote, a folder that the released MagicTailor program "
            "wrote, or another trainer's LoRA with its new words, from the loras folder.",
            search_aliases=["magictailor load", "load lora", "lora"],
            inputs=[
                io.Combo.Input(
                    "tailoring",
                    options=_files(),
                    tooltip="A file in the loras folder that Save Tailoring wrote. For the released program, put its "
                    f"whole output folder there and choose its {LORA_FILE}. Ordinary LoRAs go into Load LoRA.",
                ),
            ],
            outputs=[
                Tailoring.Output(display_name="tailoring", tooltip="For Tailored Sampler and Apply Tailoring."),
                io.String.Output(display_name="words", tooltip="Which token stands for what."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, tailoring):
        try:
            path = _path(tailoring)
        except InputError:  # reported by execute
            return tailoring
        files = [path, path.with_name(TABLE_FILE)] if path.name == LORA_FILE else [path]
        return [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]

    @classmethod
    def execute(cls, tailoring):
        with artist_errors(NAME):
            loaded = load_tailoring(_path(tailoring))
        return io.NodeOutput(loaded, loaded.words)


def _files() -> list[str]:
    """The loras, without other programs' files of the released program's name: those cannot be tailorings.

    If there are none, one entry that says how to get one.
    """

    def can_be_loaded(name: str) -> bool:
        path = Path(name)
        folders = folder_paths.get_folder_paths("loras")
        return path.name != LORA_FILE or any(is_released(Path(folder) / path.parent) for folder in folders)

    return [name for name in folder_paths.get_filename_list("loras") if can_be_loaded(name)] or [NOTHING_SAVED]


def _path(name: str) -> Path:
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise InputError(
            "tailoring", f'there is no "{name}" in models/loras; save one with Save Tailoring, press R and choose it'
        )
    return Path(path)
