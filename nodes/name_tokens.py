"""Give the tokens of a tailoring other names."""

import re

from comfy_api.v0_0_2 import io

from .bridge.errors import artist_errors
from .bridge.socket_types import CATEGORY, Tailoring

NAME = "Name Tokens"


class MagicTailorNameTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorNameTokens",
            display_name=NAME,
            category=CATEGORY,
            description="Gives the tokens of a tailoring other names: words of your own, or a label, so that two "
            "tailorings can be in one prompt: <anna:v0> in front of <ben:v0>.",
            search_aliases=["magictailor rename", "token names", "trigger word", "two tailorings"],
            inputs=[
                Tailoring.Input("tailoring", tooltip="From Train or Load Tailoring."),
                io.String.Input(
                    "names",
                    default="",
                    placeholder="sks_tower, sks_roof",
                    tooltip="A name for each token, the concept's first, with commas between them: letters, digits, - "
                    "and _, in <> or not. Empty: the names stay.",
                ),
                io.String.Input(
                    "label",
                    default="",
                    placeholder="anna",
                    tooltip="Put into every name, <anna:v0>, to tell this tailoring's tokens from another's in one "
                    "prompt. Empty: none.",
                ),
            ],
            outputs=[
                Tailoring.Output(
                    display_name="tailoring",
                    tooltip="The same under the new names. Save Tailoring keeps them, in the file and in the names of "
                    "the embeddings.",
                ),
                io.String.Output(display_name="words", tooltip="Which token stands for what."),
                io.String.Output(display_name="prompt", tooltip="A prompt for the concept with all its components."),
            ],
        )

    @classmethod
    def execute(cls, tailoring, names, label):
        with artist_errors(NAME):
            chosen = [name for name in re.split(r"[,，\s]+", names) if name]
            if chosen:
                tailoring = tailoring.renamed(chosen)
            if label.strip():
                tailoring = tailoring.labelled(label.strip())
        return io.NodeOutput(tailoring, tailoring.words, tailoring.prompt)
