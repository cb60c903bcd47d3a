"""Save a tailoring where ComfyUI finds LoRAs and embeddings."""

from comfy_api.v0_0_2 import io, ui

from ..magictailor.errors import InputError
from ..magictailor.formats.file_name import checked_name
from ..magictailor.formats.tailoring_file import embedding_name, save_with_embeddings
from ..magictailor.tailoring import composed
from .bridge.convert import image_to_library
from .bridge.errors import artist_errors, described
from .bridge.output_folders import not_first, writable_folder
from .bridge.socket_types import CATEGORY, Tailoring

NAME = "Save Tailoring"
PICTURES_INSIDE = "the file holds small copies of the pictures it was learned from"
NO_PICTURES = "without pictures: this tailoring does not carry any of what it was learned from"


class MagicTailorSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorSave",
            display_name=NAME,
            category=CATEGORY,
            description="Saves one file with everything into the loras folder, and one embedding per token into the "
            "embeddings folder. Never overwrites: a number is added to a name that is taken.",
            search_aliases=["magictailor save", "save lora", "lora", "save embedding"],
            is_output_node=True,
            inputs=[
                Tailoring.Input("tailoring", tooltip="From Train."),
                io.String.Input(
                    "name",
                    default="my_tailoring",
                    tooltip="File name without ending; people/anna makes a subfolder. The embeddings get _v0, _v1 ... "
                    "added to it.",
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="A picture for the lists of model managers, such as a first drawing; stored inside the "
                    "file with at most 256 pixels a side. Of a batch the first is taken.",
                ),
                io.Boolean.Input(
                    "reference_pictures",
                    default=False,
                    optional=True,
                    tooltip="Keeps small copies of the pictures it was learned from, and their masks, in the file (64 "
                    "kB at most): MagicTailor Score and Compare then need nothing else to compare with. Whoever gets "
                    "the file can look at them, so this is off unless you want it.",
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
    def validate_inputs(cls, name):
        # told when the graph is queued, not after the training; None: another node will give it
        try:
            if name is not None:
                checked_name(name)
        except InputError as error:
            return described(NAME, error)
        return True

    @classmethod
    def execute(cls, tailoring, name, thumbnail=None, reference_pictures=False):
        loras, embeddings = (writable_folder(kind) for kind in ("loras", "embeddings"))
        with artist_errors(NAME, {"thumbnail": "connect another one or none"}):
            shown = None if thumbnail is None else image_to_library(thumbnail[:1], "thumbnail")[0]
            try:
                saved = save_with_embeddings(tailoring, name, loras, embeddings, shown, reference_pictures)
            except OSError as error:
                raise InputError("loras", f"the files cannot be written ({error}); nothing was saved") from error
        lora_name = f"{saved.name}.safetensors"
        names = [embedding_name(saved.name, token) for token in tailoring.tokens]
        prompt = composed([f"embedding:{name}" for name in names])
        lines = [f"loras: {lora_name}", *(f"embeddings: {n}.safetensors" for n in names)]
        lines += [f"in {folder}: the folder before it cannot be written" for folder in not_first(loras, embeddings)]
        if reference_pictures:
            lines.append(PICTURES_INSIDE if tailoring.pictures else NO_PICTURES)
        return io.NodeOutput(lora_name, names, prompt, ui=ui.PreviewText("\n".join(lines)))
