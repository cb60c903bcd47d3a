"""The Train node of the first release, with every setting on it, for graphs that were made with it."""

from comfy_api.v0_0_2 import io

from ..magictailor.config import TailorConfig, memory_of
from .bridge.errors import TRAINING_REMEDIES, artist_errors
from .bridge.inputs import (
    PREVIEW_EVERY,
    PREVIEW_PROMPT,
    PREVIEW_STEPS,
    knob_input,
    preview_inputs,
    preview_steps_input,
    training_inputs,
    training_outputs,
)
from .bridge.packages import needed_packages
from .bridge.socket_types import CATEGORY, Reference

NAME = "MagicTailor Train (all settings)"
# as they stood on the node: saved workflows hold widget values by position
WIDGETS = (
    "phase1_train_steps",
    "phase2_train_steps",
    "phase1_learning_rate",
    "phase2_learning_rate",
    "resolution",
    "seed",
    "lora_rank",
    "alpha",
    "gamma",
    "ema_decay",
    "lambda_preservation",
    "lambda_attention",
    "scale_lr",
    "token_lr_scale",
    "mixed_precision",
    "gradient_checkpointing",
    "low_memory",
    "color_jitter",
    "flip_probability",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "adam_weight_decay",
    "max_grad_norm",
)

# what they were called before there was one choice, memory
SWITCHES = {
    "gradient_checkpointing": "Less memory for about a third more time; the result is the same.",
    "low_memory": "One picture at a time, for small cards: takes longer, the result is the same up to rounding.",
}


class MagicTailorTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorTrain",
            display_name=NAME,
            category=CATEGORY,
            description="The Train node of the first release, kept so that graphs made with it still work. For new "
            "ones take MagicTailor Train, and MagicTailor Settings for what is rarely turned.",
            search_aliases=["magictailor train all settings"],
            is_deprecated=True,
            inputs=[
                *training_inputs(),
                io.Autogrow.Input(
                    "components",
                    template=io.Autogrow.TemplatePrefix(
                        Reference.Input(
                            "component", tooltip="A component; the first one becomes <v1>, the second <v2> ..."
                        ),
                        prefix="component",
                        min=1,
                        max=8,
                    ),
                    tooltip="What the concept will wear: one or more components.",
                ),
                *(_switch(name) if name in SWITCHES else knob_input(name) for name in WIDGETS),
                # optional, so that graphs made before they existed still run
                *preview_inputs(),
                preview_steps_input(),
            ],
            outputs=training_outputs(),
        )

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
        preview_steps=PREVIEW_STEPS,
        gradient_checkpointing=False,
        low_memory=False,
        **settings,
    ):
        with needed_packages(NAME), artist_errors(NAME, TRAINING_REMEDIES):
            from .bridge.training import Preview, trained

            references = [concept, *(c for c in components.values() if c is not None)]
            preview = Preview(preview_every, preview_prompt, preview_steps)
            config = TailorConfig(memory=memory_of(low_memory, gradient_checkpointing), **settings)
            return trained(NAME, model, clip, vae, references, config, preview)


def _switch(name: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=False, tooltip=f"{SWITCHES[name]} (default False)", advanced=True)
