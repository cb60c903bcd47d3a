"""The settings of a training that are rarely turned, with presets."""

from comfy_api.v0_0_2 import io

from ..magictailor.config import TailorConfig, memory_of
from ..magictailor.errors import InputError
from .bridge.errors import artist_errors
from .bridge.inputs import PREVIEW_STEPS, knob_input, preview_steps_input
from .bridge.knobs import AS_ON_TRAIN, ON_TRAIN, PRESETS, preset_values
from .bridge.socket_types import CATEGORY, Settings

NAME = "MagicTailor Settings"


class MagicTailorSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorSettings",
            display_name=NAME,
            category=CATEGORY,
            description="The settings of a training that are rarely turned: the paper's constants and the optimizer's. "
            "MagicTailor Train works without this node, by the paper's values.",
            search_aliases=["magictailor settings", "hyperparameters", "preset", "adamw", "optimizer"],
            inputs=[
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(preset, _widgets(preset)) for preset in PRESETS],
                    tooltip="What the settings below begin with; change any of them. Every setting shown on this node "
                    "counts, in place of MagicTailor Train's where both have it; for all others Train's count.",
                )
            ],
            outputs=[Settings.Output(display_name="settings", tooltip="For MagicTailor Train.")],
        )

    @classmethod
    def validate_inputs(cls, **inputs):
        # the host knows the words of memory alone, not the switch that stood in its place; execute checks all values
        return True

    @classmethod
    def execute(cls, preset=None):
        with artist_errors(NAME):
            if preset is None:  # what the host makes of one that is not in the list
                raise InputError("preset", f"has to be one of: {', '.join(PRESETS)}")
            given = {name: value for name, value in preset.items() if name != "preset" and value is not None}
            values = preset_values(preset["preset"]) | given
            steps = values.pop("preview_steps", PREVIEW_STEPS)
            # a switch gradient_checkpointing stood in its place once
            memory = values.pop("memory")
            if isinstance(memory, bool):
                memory = memory_of(False, True) if memory else AS_ON_TRAIN
            if given.get("gradient_checkpointing") is True:
                memory = memory_of(False, True)
            values.pop("gradient_checkpointing", None)
            if memory != AS_ON_TRAIN:
                values["memory"] = memory
            TailorConfig(**values)
        return io.NodeOutput(values | {"preview_steps": steps})


def _widgets(preset: str) -> list[io.WidgetInput]:
    # optional: a graph written by hand need only name the preset
    widgets = {
        name: knob_input(name, value, True, "Counts in place of MagicTailor Train's." if name in ON_TRAIN else "")
        for name, value in preset_values(preset).items()
    }
    of_train = [widget for name, widget in widgets.items() if name in ON_TRAIN]
    others = [widget for name, widget in widgets.items() if name not in ON_TRAIN]
    # saved workflows hold widget values by position: a new hyper-parameter comes after all others
    return [*of_train, preview_steps_input(), *others]
