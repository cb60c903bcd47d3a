"""Trains on the host's MODEL, CLIP and VAE; imported when a training starts, for it brings packages of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io
from PIL import Image

from ...magictailor.backbones import build
from ...magictailor.config import TailorConfig
from ...magictailor.formats.tailoring_file import save_tailoring
from ...magictailor.reference import Reference
from ...magictailor.sampling import Sketcher
from ...magictailor.training import Training, TrainingDiverged, TrainingResult
from . import host
from .backbones import checkpoint_weights
from .convert import image_from_pil, image_to_library
from .live_view import LiveView


@dataclass(frozen=True)
class Preview:
    """What the node shows while it trains.

    Attributes:
        every: steps from one sample to the next; 0 draws none.
        prompt: what the samples show.
        steps: DDIM steps of each.
        note: what stands below the progress.
    """

    every: int
    prompt: str
    steps: int
    note: str = ""


def trained(
    node: str, model, clip, vae, references: Sequence[Reference], config: TailorConfig, preview: Preview
) -> io.NodeOutput:
    """The outputs of a Train node, see `training_outputs`.

    Args:
        node: its display name.
        references: the concept, then its components.

    Raises:
        InputError: MODEL, CLIP, VAE, a reference or the preview's prompt cannot be used.
        RuntimeError: the numbers were no longer finite; what was learned before is saved and named.
    """
    host.free_memory()
    with host.outside_inference_mode():
        result, report = _trained(node, model, clip, vae, references, config, preview)
    loss_map = {"loss": [step.loss for step in result.history]}
    return io.NodeOutput(result.tailoring, dict(result.tailoring.lora), loss_map, image_from_pil(report))


def _trained(
    node: str, model, clip, vae, references: Sequence[Reference], config: TailorConfig, preview: Preview
) -> tuple[TrainingResult, Image.Image]:
    """Everything that holds the trained model is in here, so that its memory is free when this returns."""
    words = [reference.class_word for reference in references]
    trained = build(checkpoint_weights(model, clip, vae), words, config, host.torch_device())
    sketcher = Sketcher(
        trained,
        decode=lambda latents: image_to_library(vae.decode(latents)),
        resolution=config.resolution or trained.family.resolution,
        steps=preview.steps,
        after_step=host.check_interrupted,
    )
    view = LiveView(config.total_steps, references, sketcher, preview.prompt, preview.every, preview.note)
    training = Training(trained, references, config)
    try:
        for report in training:
            view.after_step(report)
    except TrainingDiverged as error:
        raise RuntimeError(f"{node}: {error}. {_rescue(training, error.step)}") from error
    return training.result(), view.report()


def _rescue(training: Training, step: int) -> str:
    if training.steps_done == 0:
        return "Nothing had been learned yet."
    folder = Path(folder_paths.get_output_directory()) / "loras" / "magictailor_unfinished"
    number = 1
    while True:
        path = folder / f"stopped_at_step_{step}_{number:03}.safetensors"
        try:
            save_tailoring(training.result().tailoring, path)
        except FileExistsError:
            number += 1
        else:
            return f"What was learned before is kept in output/loras/magictailor_unfinished/{path.name}."
