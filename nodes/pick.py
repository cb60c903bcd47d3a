"""Keep the best of many pictures."""

import torch
from comfy_api.v0_0_2 import io

from ..magictailor.errors import InputError
from ..magictailor.scores.table import BACKGROUND, COMPONENT, CONCEPT, PROMPT, USUAL_WEIGHTS
from .bridge import host
from .bridge.errors import artist_errors
from .bridge.lists import only
from .bridge.socket_types import CATEGORY, Scores

NAME = "MagicTailor Pick"


class MagicTailorPick(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def weight(name: str, tooltip: str):
            return io.Float.Input(name, default=USUAL_WEIGHTS[name], min=-10.0, max=10.0, step=0.05, tooltip=tooltip)

        return io.Schema(
            node_id="MagicTailorPick",
            display_name=NAME,
            category=CATEGORY,
            description="Keeps the best of many pictures by their scores, the best first.",
            search_aliases=["magictailor pick", "best of", "select images", "choose best"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures that were scored, in the same order."),
                Scores.Input("scores", tooltip="From MagicTailor Score."),
                io.Int.Input("count", default=4, min=1, max=4096, tooltip="How many to keep."),
                weight(
                    CONCEPT,
                    "How much likeness to the concept counts. Every measure is first brought to the same spread over "
                    "these pictures, so that 1 and 1 count alike.",
                ),
                weight(COMPONENT, "How much likeness to the components counts."),
                weight(BACKGROUND, "How much a background like the references' counts; below 0, against it."),
                weight(PROMPT, "How much agreement with the prompt counts, where it was scored."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The best ones: a batch if they are of one size, otherwise a list.",
                ),
                Scores.Output(display_name="scores", tooltip="The scores of these."),
                io.String.Output(display_name="text", tooltip="Which ones were kept, and their scores."),
            ],
        )

    @classmethod
    def execute(cls, images, scores, count, concept, component, background, prompt):
        pictures = [picture for batch in images for picture in batch]
        with artist_errors(NAME, {"images": "connect the same pictures as to MagicTailor Score"}):
            table = only("scores", scores)
            if len(pictures) != len(table):
                raise InputError("images", f"there are {len(pictures)}, and the scores are of {len(table)}")
            given = {CONCEPT: concept, COMPONENT: component, BACKGROUND: background, PROMPT: prompt}
            weights = {name: only(name, values) for name, values in given.items()}
            best = table.best(only("count", count), weights)
        kept = table.of(best)
        text = f"kept {', '.join(str(n + 1) for n in best)} of {len(pictures)}\n{kept.text}"
        host.show_text(text)
        chosen = [pictures[n] for n in best]
        one_size = len({picture.shape for picture in chosen}) == 1
        return io.NodeOutput([torch.stack(chosen)] if one_size else [p[None] for p in chosen], kept, text)
