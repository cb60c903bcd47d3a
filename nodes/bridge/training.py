"""Trains on the host's MODEL, CLIP and VAE; imported when a training starts, for it brings packages of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from comfy_api.v0_0_2 import io
from PIL import Image

from ...magictailor.backbones import CheckpointWeights, Family, build
from ...magictailor.backbones.precision import precision_for
from ...magictailor.config import CONTINUE, TailorConfig
from ...magictailor.doubts import doubts
from ...magictailor.fingerprints import of_checkpoint
from ...magictailor.memory import is_out_of_memory
from ...magictailor.reference import Reference
from ...magictailor.report.sheet import reference_names
from ...magictailor.runs import Keeper, Plan, Run, Runs, plan_of
from ...magictailor.sampling import Sketcher
from ...magictailor.training import Training, TrainingDiverged, TrainingResult
from . import host, leaving
from .backbones import checkpoint_weights, family_of_model, foreign_autoencoder, unseen_patches
from .convert import image_from_pil, image_to_library
from .encoders import judge_of
from .live_view import LiveView
from .output_folders import loras_folder, runs_folder
from .references import require_masks


@dataclass(frozen=True)
class Preview:
    """What the node shows while it trains.

    Attributes:
        every: steps from one sample to the next; 0 draws none.
        prompt: what the samples show.
        steps: sampling steps of each.
        note: what stands below the progress.
        clip_vision: scores the samples; None: they are not scored.
    """

    every: int
    prompt: str
    steps: int
    note: str = ""
    clip_vision: object | None = None

    @property
    def drawn(self) -> str:
        """What decides which samples the report shows."""
        return json.dumps([self.prompt, self.steps] if self.every else [])


def trained(
    node: str,
    model,
    clip,
    vae,
    references: Sequence[Reference],
    config: TailorConfig,
    preview: Preview,
    resume: str = CONTINUE,
    snapshot_every: int = 0,
) -> io.NodeOutput:
    """The outputs of a Train node, see `training_outputs`.

    Args:
        node: its display name.
        references: the concept, then its components.
        resume: go on with the same training on disk, or start over; see `magictailor.runs`.
        snapshot_every: steps from one tailoring that stays in the run's folder to the next; 0 keeps none.

    Raises:
        InputError: MODEL, CLIP, VAE, a reference, the preview's prompt or the folder of runs cannot be used.
        RuntimeError: a reference has no masks, the numbers were no longer finite, or memory ran out; the latter two say
            where what was learned before is.
    """
    require_masks(references)
    family = family_of_model(model)
    doubted = doubts(references, config.resolution or family.resolution)
    said = (learned(references), left_out(model, clip), wrong_vae(vae, family), *doubted, preview.note)
    note = "\n".join(filter(None, said))
    host.show_text(note)
    host.free_memory()
    with host.outside_inference_mode():
        weights, device = checkpoint_weights(model, clip, vae), host.torch_device()
        number_format = str(precision_for(config.mixed_precision, device))
        plan = plan_of(references, config, device.type, number_format, of_checkpoint(weights))
        run = Runs(runs_folder()).choose(plan, resume)
        note = "\n".join(filter(None, (note, run.note)))
        result, report = _from_disk(run, plan, preview, note) or _trained(
            node, weights, vae, references, run, plan, preview, snapshot_every, note
        )
    loss_map = {"loss": [step.loss for step in result.history]}
    return io.NodeOutput(result.tailoring, dict(result.tailoring.lora), loss_map, image_from_pil(report))


def learned(references: Sequence[Reference]) -> str:
    """What a training is about, for whoever has lost an input on the way through a subgraph."""
    count = len(references) - 1
    return f"{count} component{'' if count == 1 else 's'}: {', '.join(reference_names(references))}"


def left_out(model, clip) -> str:
    """What somebody may take to be learned with, and is not; "" for nothing."""
    names = ", ".join(unseen_patches(model, clip))
    return f"What {names} put on this MODEL or CLIP acts while sampling only: training does not see it" if names else ""


def wrong_vae(vae, family: Family) -> str:
    """What to say of a VAE of another family; "" for nothing."""
    if not foreign_autoencoder(vae, family):
        return ""
    return f"This VAE was made for another family than {family.title}: colours and shapes are learned wrong with it"


def _from_disk(run: Run, plan: Plan, preview: Preview, note: str) -> tuple[TrainingResult, Image.Image] | None:
    """What a finished run has left, if its report shows what is asked for: no model is needed then."""
    record, report = run.record, run.picture(preview.drawn)
    if report is None or record is None or record.steps_done != plan.config.total_steps:
        return None
    host.show_text(note)
    return run.result(), report


def _trained(
    node: str,
    weights: CheckpointWeights,
    vae,
    references: Sequence[Reference],
    run: Run,
    plan: Plan,
    preview: Preview,
    snapshot_every: int,
    note: str,
) -> tuple[TrainingResult, Image.Image]:
    """Everything that holds the trained model is in here, so that its memory is free when this returns."""
    config = plan.config
    trained = build(weights, plan.class_words, config, host.torch_device())
    sketcher = Sketcher(
        trained,
        decode=lambda latents: image_to_library(vae.decode(latents)),
        resolution=config.resolution or trained.family.resolution,
        steps=preview.steps,
        after_step=host.check_interrupted,
    )
    training = Training(trained, references, config, host.free_bytes())
    run.restore(training)
    judge = None if preview.clip_vision is None or not preview.every else judge_of(references, preview.clip_vision)
    view = LiveView(training, references, sketcher, preview.prompt, preview.every, note, judge)
    keeper = None
    try:
        with leaving.waited_for(), run.kept(training, plan, loras_folder(), snapshot_every) as keeper:
            for report in training:
                keeper.after_step()
                sample = view.after_step(report, keeper.problem)
                if sample is not None:
                    run.keep_picture(sample)
    except TrainingDiverged as error:
        raise RuntimeError(f"{node}: {error}. {_left(keeper)}") from error
    except BaseException as error:
        if not is_out_of_memory(error):
            host.show_text(_left(keeper))
            raise
        raise RuntimeError(
            f"{node}: there was not enough memory for step {training.steps_done + 1}, even with {training.memory}. "
            f"{_left(keeper)} Close what else uses the graphics card, or choose a lower resolution or lora_rank"
        ) from error
    sheet = view.report()
    run.keep_picture(sheet, "" if view.failed else preview.drawn)
    return training.result(), sheet


def _left(keeper: Keeper | None) -> str:
    """Where what was learned is, when a training ends early."""
    if keeper is None or keeper.unfinished is None:
        return "Nothing had been learned yet."
    file = f"{keeper.unfinished.parent.name}/{keeper.unfinished.name}"
    return f"What was learned before is kept in output/loras/{file}; Run goes on after step {keeper.saved_step}."
