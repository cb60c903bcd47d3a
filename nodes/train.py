"""Train a concept and its components on the loaded checkpoint."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io
from PIL import Image

from ..magictailor.config import Knob, TailorConfig, defaults, knobs
from ..magictailor.formats.tailoring_file import save_tailoring
from ..magictailor.reference import Reference as LibraryReference
from ..magictailor.sampling import Sketcher
from ..magictailor.training import TrainingDiverged, TrainingResult, train
from . import host
from .checkpoint import checkpoint_weights, family_of_model
from .convert import image_from_pil, image_to_library
from .errors import artist_errors
from .live_view import LiveView
from .types import CATEGORY, Reference, Tailoring

NAME = "MagicTailor Train"
MOST_COMPONENTS = 8
PREVIEW_EVERY = 50
PREVIEW_PROMPT = "<v0> with <v1>"
PREVIEW_STEPS = 20


class MagicTailorTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorTrain",
            display_name=NAME,
            category=CATEGORY,
            description="Learns a concept and its components on the loaded checkpoint: a LoRA and the words <v0> (the "
            "concept), <v1>, <v2> ... (the components). First a warm-up, then DS-Bal; DM-Deg in both.",
            search_aliases=["magictailor", "train lora", "lora", "personalization", "dreambooth", "textual inversion"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. LoRAs applied before are baked in."
                ),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE that pictures are encoded with."),
                Reference.Input("concept", tooltip="What wears the components; becomes <v0>."),
                io.Autogrow.Input(
                    "components",
                    template=io.Autogrow.TemplatePrefix(
                        Reference.Input(
                            "component", tooltip="A component; the first one becomes <v1>, the second <v2> ..."
                        ),
                        prefix="component",
                        min=1,
                        max=MOST_COMPONENTS,
                    ),
                    tooltip="What the concept will wear: one or more components.",
                ),
                *(_widget(name, knob) for name, knob in knobs().items()),
                # optional, so that graphs made before they existed still run
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
                    tooltip="What the samples show, here and in the report: <v0> is the concept, <v1> the first "
                    "component.",
                ),
                io.Int.Input(
                    "preview_steps",
                    default=PREVIEW_STEPS,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="DDIM steps of each sample: fewer take less time, more look cleaner.",
                ),
            ],
            outputs=[
                Tailoring.Output(
                    display_name="tailoring", tooltip="For Tailored Sampler, Apply Tailoring and Save Tailoring."
                ),
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA alone, for the stock LoRA nodes."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
                io.Image.Output(
                    display_name="report",
                    tooltip="A sheet with what was learned from, the curves, the tokens' attention and samples.",
                ),
            ],
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
        **settings,
    ):
        references = [concept, *(c for c in components.values() if c is not None)]
        with artist_errors(NAME):
            config = TailorConfig(**settings)
            host.free_memory()
            with host.outside_inference_mode():
                result, report = _train(
                    model, clip, vae, references, config, preview_every, preview_prompt, preview_steps
                )
        loss_map = {"loss": [step.loss for step in result.history]}
        return io.NodeOutput(result.tailoring, dict(result.tailoring.lora), loss_map, image_from_pil(report))


def _train(
    model, clip, vae, references: list[LibraryReference], config: TailorConfig, every: int, prompt: str, steps: int
) -> tuple[TrainingResult, Image.Image]:
    """Everything that holds the trained model is in here, so that its memory is free when this returns."""
    words = [reference.class_word for reference in references]
    weights = checkpoint_weights(model, clip, vae)
    trained = family_of_model(model).build(weights, words, config, host.torch_device())
    sketcher = Sketcher(
        trained,
        decode=lambda latents: image_to_library(vae.decode(latents)),
        resolution=config.resolution or trained.family.resolution,
        steps=steps,
        after_step=host.check_interrupted,
    )
    view = LiveView(config.total_steps, references, sketcher, prompt, every)
    try:
        result = train(trained, references, config, view.after_step)
    except TrainingDiverged as error:
        raise RuntimeError(f"{NAME}: {error}. {_rescue(error)}") from error
    return result, view.report()


def _rescue(error: TrainingDiverged) -> str:
    tailoring = error.result.tailoring
    if tailoring.steps_done == 0:
        return "Nothing had been learned yet."
    folder = Path(folder_paths.get_output_directory()) / "loras" / "magictailor_unfinished"
    number = 1
    while True:
        path = folder / f"stopped_at_step_{error.step}_{number:03}.safetensors"
        try:
            save_tailoring(tailoring, path)
        except FileExistsError:
            number += 1
        else:
            return f"What was learned before is kept in output/loras/magictailor_unfinished/{path.name}."


def _widget(name: str, knob: Knob) -> io.WidgetInput:
    default = defaults()[name]
    notes = ", ".join(
        note
        for note in (
            knob.unit and f"in {knob.unit}",
            knob.symbol and f"{knob.symbol} in the paper",
            f"default {default}",
        )
        if note
    )
    shown = {"default": default, "tooltip": f"{knob.help} ({notes})", "advanced": knob.advanced}
    if isinstance(default, bool):
        return io.Boolean.Input(name, **shown)
    if isinstance(default, str):
        return io.Combo.Input(name, options=list(knob.choices), **shown)
    if name == "seed":
        shown["control_after_generate"] = io.ControlAfterGenerate.fixed
    if isinstance(default, int):
        return io.Int.Input(name, min=int(knob.low), max=int(knob.high), step=int(knob.step), **shown)
    return io.Float.Input(name, min=knob.low, max=knob.high, step=knob.step, round=False, **shown)
