"""Save a tailoring where ComfyUI finds LoRAs and embeddings."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io, ui

from ..magictailor.files import checked_name, save_embedding, save_tailoring
from ..magictailor.tailoring import Tailoring as LibraryTailoring
from .errors import artist_errors
from .types import CATEGORY, Tailoring

NAME = "Save Tailoring"


class MagicTailorSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorSave",
            display_name=NAME,
            category=CATEGORY,
            description="Saves one file with everything into the loras folder, and one embedding per token into the "
            "embeddings folder. Never overwrites: a number is added to a name that is taken.",
            search_aliases=["magictailor save", "save lora", "save embedding"],
            is_output_node=True,
            inputs=[
                Tailoring.Input("tailoring", tooltip="From Train."),
                io.String.Input(
                    "name",
                    default="my_tailoring",
                    tooltip="File name without ending; people/anna makes a subfolder. The embeddings get _v0, _v1 ... "
                    "added to it.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="lora_name", tooltip="The saved file, as the stock Load LoRA lists it."),
                io.String.Output(
                    display_name="embedding_names",
                    is_output_list=True,
                    tooltip="The saved embeddings, the concept's first, as used after 'embedding:' in a prompt.",
                ),
                io.String.Output(
                    display_name="stock_prompt", tooltip="A prompt that uses the saved embeddings without this pack."
                ),
            ],
        )

    @classmethod
    def execute(cls, tailoring, name):
        with artist_errors(NAME):
            wanted = checked_name(name)
            saved = _save(tailoring, wanted)
        lora_name = f"{saved}.safetensors"
        embeddings = [_embedding_name(saved, token.name) for token in tailoring.tokens]
        prompt = tailoring.prompt
        for token, embedding in zip(tailoring.tokens, embeddings, strict=True):
            prompt = prompt.replace(token.name, f"embedding:{embedding}")
        text = "\n".join([f"loras: {lora_name}", *(f"embeddings: {e}.safetensors" for e in embeddings)])
        return io.NodeOutput(lora_name, embeddings, prompt, ui=ui.PreviewText(text))


def _embedding_name(saved: str, token: str) -> str:
    return f"{saved}_{token.strip('<>')}"


def _save(tailoring: LibraryTailoring, wanted: str) -> str:
    """Save under the first of wanted, wanted_2, wanted_3 ... of which no file is there, and return it."""
    loras = Path(folder_paths.get_folder_paths("loras")[0])
    embeddings = Path(folder_paths.get_folder_paths("embeddings")[0])
    number = 1
    while True:
        name = wanted if number == 1 else f"{wanted}_{number}"
        number += 1
        written: list[Path] = []
        try:
            for token in tailoring.tokens:
                path = embeddings / f"{_embedding_name(name, token.name)}.safetensors"
                save_embedding(token, path)
                written.append(path)
            save_tailoring(tailoring, loras / f"{name}.safetensors")
            return name
        except BaseException as error:
            for path in written:
                path.unlink()
            if not isinstance(error, FileExistsError):
                raise
