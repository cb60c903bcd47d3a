"""Train a concept and its components on the loaded checkpoint."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..magictailor.config import Knob, TailorConfig, defaults, knobs
from ..magictailor.files import save_tailoring
from ..magictailor.model import build_model
from ..magictailor.references import Reference as LibraryReference
from ..magictailor.trainer import StepReport, TrainingDiverged, TrainingResult, train
from . import host
from .checkpoint import checkpoint_weights
from .errors import artist_errors
from .types import CATEGORY, Reference, Tailoring

NAME = "MagicTailor Train"
MOST_COMPONENTS = 8


class MagicTailorTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorTrain",
            display_name=NAME,
            category=CATEGORY,
            description="Learns a concept and its components on the loaded checkpoint: a LoRA and the words <v0> (the "
            "concept), <v1>, <v2> ... (the components). First a warm-up, then DS-Bal; DM-Deg in both.",
            search_aliases=["magictailor", "train lora", "personalization", "dreambooth", "textual inversion"],
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
                        Reference.Input("component", tooltip="A component; becomes <v1>, <v2> ... in this order."),
                        prefix="component",
                        min=1,
                        max=MOST_COMPONENTS,
                    ),
                    tooltip="What the concept will wear: one or more components.",
                ),
                *(_widget(name, knob) for name, knob in knobs().items()),
            ],
            outputs=[
                Tailoring.Output(
                    display_name="tailoring", tooltip="For Tailored Sampler, Apply Tailoring and Save Tailoring."
                ),
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA alone, for the stock LoRA nodes."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, vae, concept, components, **settings):
        references = [concept, *(c for c in components.values() if c is not None)]
        with artist_errors(NAME):
            config = TailorConfig(**settings)
            host.free_memory()
            with host.outside_inference_mode():
                result = _train(model, clip, vae, references, config)
        loss_map = {"loss": [report.loss for report in result.history]}
        return io.NodeOutput(result.tailoring, dict(result.tailoring.lora), loss_map)


def _train(model, clip, vae, references: list[LibraryReference], config: TailorConfig) -> TrainingResult:
    weights = checkpoint_weights(model, clip, vae)
    words = [reference.class_word for reference in references]
    bar = host.progress_bar(config.total_steps)

    def after_step(report: StepReport) -> None:
        bar.update_absolute(report.step)
        host.check_interrupted()

    try:
        return train(build_model(weights, words, config, host.torch_device()), references, config, after_step)
    except TrainingDiverged as error:
        raise RuntimeError(f"{NAME}: {error}. {_rescue(error)}") from error


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
