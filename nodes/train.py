"""Train a concept and its components on the loaded checkpoint."""

from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io

from ..magictailor.config import AUTO, CONTINUE, MEMORY, TailorConfig
from .bridge.errors import TRAINING_REMEDIES, artist_errors
from .bridge.inputs import (
    PREVIEW_EVERY,
    PREVIEW_PROMPT,
    PREVIEW_STEPS,
    knob_input,
    memory_from,
    numbered_inputs,
    preview_inputs,
    run_inputs,
    training_inputs,
    training_outputs,
)
from .bridge.knobs import ON_TRAIN
from .bridge.packages import needed_packages
from .bridge.references import COMPONENTS, without_gap
from .bridge.socket_types import CATEGORY, Reference, Settings

NAME = "MagicTailor Train"


class MagicTailorTrainV2(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorTrainV2",
            display_name=NAME,
            category=CATEGORY,
            description="Learns a concept and its components on the loaded checkpoint: a LoRA and the words <v0> (the "
            "concept), <v1>, <v2> ... (the components). First a warm-up, then DS-Bal; DM-Deg in both.",
            search_aliases=["magictailor", "train lora", "lora", "personalization", "dreambooth", "textual inversion"],
            inputs=[
                *training_inputs(),
                numbered_inputs(
                    "components",
                    Reference.Input("component", tooltip="component 1 becomes <v1>, component 2 becomes <v2> ..."),
                    COMPONENTS,
                    "What the concept will wear: one or more components.",
                ),
                # graphs made before memory existed have a switch low_memory in its place, see memory_from
                *(knob_input(name, optional=name == "memory") for name in ON_TRAIN),
                *preview_inputs(),
                Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="From MagicTailor Settings, for what is rarely turned. Without it the paper's values "
                    "count. Every setting shown there counts in place of the one here.",
                ),
                # saved workflows hold widget values by position: what is new comes last
                *run_inputs(),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From the stock Load CLIP Vision: says how alike each sample is to the references, on the "
                    "node and in the report, where the best step is marked. It does not change what is learned.",
                ),
            ],
            outputs=training_outputs(),
            accept_all_inputs=True,
        )

    @classmethod
    def validate_inputs(cls, memory=AUTO, components=None):
        # the host's own check knows the words alone, not what stood in their place; components it hands over always
        return isinstance(memory, bool) or memory in MEMORY or f"memory has to be one of {', '.join(MEMORY)}"

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        concept,
        components,
        preview_every=PREVIEW_EVERY,
        preview_prompt=PREVIEW_PROMPT,
        settings=None,
        resume=CONTINUE,
        snapshot_every=0,
        memory=AUTO,
        low_memory=False,
        clip_vision=None,
        **shown,
    ):
        shown["memory"] = memory_from(memory, low_memory)
        settings = {"preview_steps": PREVIEW_STEPS} | (settings or {})
        preview_steps = settings.pop("preview_steps")
        with needed_packages(NAME), artist_errors(NAME, TRAINING_REMEDIES):
            from .bridge.training import Preview, trained

            preview = Preview(preview_every, preview_prompt, preview_steps, _note(settings, shown), clip_vision)
            references, config = [concept, *without_gap(components)], TailorConfig(**shown | settings)
            return trained(NAME, model, clip, vae, references, config, preview, resume, snapshot_every)


def _note(settings: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """Which values of Settings count in place of those that the node shows."""
    replaced = [f"{name} {value}" for name, value in settings.items() if shown.get(name, value) != value]
    return f"MagicTailor Settings: {', '.join(replaced)}" if replaced else ""
