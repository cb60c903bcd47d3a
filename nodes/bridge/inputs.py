"""Inputs and outputs that several nodes have."""

from collections.abc import Sequence
from typing import Any

from comfy_api.v0_0_2 import io

from ...magictailor.config import CONTINUE, RESUME, defaults, knobs, memory_of
from .knobs import ON_TRAIN
from .references import COMPONENTS
from .socket_types import Reference, Tailoring

PREVIEW_EVERY = 50
PREVIEW_PROMPT = "<v0> with <v1>"
PREVIEW_STEPS = 20
MOST_ENCODERS = 4
STRENGTHS = (-10.0, 10.0)
TAILORINGS = tuple(f"tailoring {number}" for number in range(1, 9))


def knob_input(name: str, value: Any = None, optional: bool = False, note: str = "") -> io.WidgetInput:
    """The widget of a hyper-parameter.

    Args:
        value: what it begins with, in place of the default.
        note: a sentence to end the tooltip with.
    """
    knob, default = knobs()[name], defaults()[name]
    facts = (
        knob.unit and f"in {knob.unit}",
        knob.symbol and f"{knob.symbol} in the paper",
        f"default {default}",
    )
    shown = {
        "default": default if value is None else value,
        "tooltip": " ".join(filter(None, (knob.help, f"({', '.join(filter(None, facts))})", note))),
        "advanced": knob.advanced and name not in ON_TRAIN,
        "optional": optional,
    }
    if isinstance(default, bool):
        return io.Boolean.Input(name, **shown)
    if isinstance(default, str):
        # a node may have a choice of its own before those of the library
        options = [value] if value is not None and value not in knob.choices else []
        return io.Combo.Input(name, options=[*options, *knob.choices], **shown)
    if name == "seed":
        shown["control_after_generate"] = io.ControlAfterGenerate.fixed
    if isinstance(default, int):
        return io.Int.Input(name, min=int(knob.low), max=int(knob.high), step=int(knob.step), **shown)
    return io.Float.Input(name, min=knob.low, max=knob.high, step=knob.step, round=False, **shown)


def memory_from(value: Any, low_memory: bool = False) -> str:
    """The `memory` of a widget, or of the switch that stood in its place in workflows of earlier versions.

    Args:
        value: a word, or what the switch low_memory was set to.
        low_memory: the switch under its own name, as in saved API graphs.
    """
    if isinstance(value, bool) or low_memory:
        return memory_of(low_memory or value is True, False)
    return value


def training_inputs() -> list[io.Input]:
    """The sockets that every training needs, but for the components."""
    return [
        io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x, XL, 3 or 3.5. LoRAs applied before are baked in."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE that pictures are encoded with."),
        Reference.Input("concept", tooltip="What wears the components; becomes <v0>."),
    ]


def preview_inputs() -> list[io.WidgetInput]:
    """How often a training draws samples, and what they show."""
    return [
        io.Int.Input(
            "preview_every",
            default=PREVIEW_EVERY,
            min=0,
            max=100_000,
            optional=True,
            tooltip="Steps from one sample on this node to the next; they do not change what is learned. "
            "0 draws none, neither here nor in the report.",
        ),
        io.String.Input(
            "preview_prompt",
            default=PREVIEW_PROMPT,
            optional=True,
            tooltip="What the samples show, here and in the report: <v0> is the concept, <v1> the first component.",
        ),
    ]


def run_inputs() -> list[io.WidgetInput]:
    """What becomes of a training that was cut, and of the states on its way."""
    return [
        io.Combo.Input(
            "resume",
            options=list(RESUME),
            default=CONTINUE,
            optional=True,
            tooltip="continue: the same training goes on where Cancel, an error or a crash stopped it, and a finished "
            "one is taken from disk. More DS-Bal steps than before extend it; DM-Deg then counts all steps (D of Eq. "
            "5) from there on, so it is not quite what one long training gives. start over: from step 1; the run "
            "before stays on disk.",
        ),
        io.Int.Input(
            "snapshot_every",
            default=0,
            min=0,
            max=100_000,
            optional=True,
            advanced=True,
            tooltip="Steps from one snapshot to the next: tailorings on the way, for MagicTailor Runs. 0 keeps none.",
        ),
    ]


def preview_steps_input() -> io.Int.Input:
    """How long the samples of a training take."""
    return io.Int.Input(
        "preview_steps",
        default=PREVIEW_STEPS,
        min=1,
        max=1000,
        optional=True,
        advanced=True,
        tooltip="Sampling steps of each sample: fewer take less time, more look cleaner.",
    )


def training_outputs() -> list[io.Output]:
    """What a training gives."""
    return [
        Tailoring.Output(display_name="tailoring", tooltip="For Tailored Sampler, Apply Tailoring and Save Tailoring."),
        io.LoraModel.Output(display_name="lora", tooltip="The LoRA alone, for the stock LoRA nodes."),
        io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
        io.Image.Output(
            display_name="report",
            tooltip="A sheet with what was learned from, the curves, the tokens' attention and samples.",
        ),
    ]


def numbered_inputs(name: str, each: io.Input, names: Sequence[str], tooltip: str, least: int = 1) -> io.Input:
    """Sockets of one kind, of which the node always shows one more than are connected.

    Args:
        each: what one of them takes.
        names: of all that there can be.
        least: how many are always shown, and needed.
    """
    template = io.Autogrow.TemplateNames(each, names=list(names), min=least)
    return io.Autogrow.Input(name, template=template, tooltip=tooltip)


def reference_inputs() -> list[io.Input]:
    """What pictures are compared with."""
    return [
        Reference.Input(
            "concept",
            optional=True,
            tooltip="The concept's pictures and masks, as Train takes them. Without, the small pictures that the "
            "tailoring itself carries are taken, for the components too.",
        ),
        numbered_inputs(
            "components",
            Reference.Input("component", tooltip="A component's pictures and masks, as Train takes them."),
            COMPONENTS,
            "The components, in the order in which Train had them.",
            least=0,
        ),
    ]


def encoders_input(least: int = 1) -> io.Input:
    """The networks that say how alike pictures are."""
    return numbered_inputs(
        "encoders",
        io.ClipVision.Input(
            "clip_vision", tooltip="From the stock Load CLIP Vision: CLIP ViT-L/14, H or bigG, or DINOv2."
        ),
        [f"clip_vision {number}" for number in range(1, MOST_ENCODERS + 1)],
        "The networks that say how alike pictures are. Each gives numbers of its own: CLIP sees what it is, DINOv2 "
        "more of how exactly it looks.",
        least,
    )


def strength_input(advanced: bool = False) -> io.Float.Input:
    """How strongly the LoRA of a tailoring is applied."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=STRENGTHS[0],
        max=STRENGTHS[1],
        step=0.01,
        advanced=advanced,
        tooltip="How strongly the LoRA changes the model; 1 is as trained. The tokens are always used whole.",
    )
