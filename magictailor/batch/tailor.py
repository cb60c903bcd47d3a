"""One job of a batch: train on a pair, save the tailoring, draw with it, score what is drawn."""

from __future__ import annotations

import hashlib
import importlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import torch

from ..backbones import Backbone, Checkpoint, open_checkpoint
from ..backbones.precision import precision_for
from ..doubts import doubts
from ..drawing import draw
from ..formats.new_file import is_temporary
from ..formats.pair_folder import load_pair
from ..formats.picture_file import read_picture
from ..formats.tailoring_file import save_tailoring
from ..reference import Reference
from ..runs import Plan, Run, RunInUse, Runs, plan_of
from ..sampling import picture_size
from ..scores.encoders import Encoder, load_encoder
from ..scores.table import ScoreTable, scored
from ..tailoring import Tailoring, put_into
from ..tokens import in_words
from ..training import Training, TrainingResult
from .early_stopping import GoesOn, judged
from .jobs import NOTES, Job, Row
from .study import CheckpointSource, Drawing, TailorTask

TAILORING = "tailoring.safetensors"
PREVIEWS = 4  # pictures that a training is judged by, at most
Paths = dict[tuple[str, int], Path]
"""Pictures by their prompt and seed."""
# a process whose machine was given up ends within seconds of noticing
WAIT, WAITS = 1.0, 60


def tailored(job: Job, folder: Path, device: str, goes_on: GoesOn | None = None) -> list[Row]:
    """Train, draw and score; every step that is on disk, and every picture, is taken from there.

    Args:
        job: with a `TailorTask`.
        goes_on: with it, a `JudgedTask` may be ended early; nothing but the previews is drawn with that.

    Returns:
        a row for each picture, its path relative to the folder of all jobs.

    Raises:
        InputError: the pair, the checkpoint or a prompt cannot be used.
        TrainingDiverged: the numbers were no longer finite.
    """
    task: TailorTask = job.task
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink(missing_ok=True)
    checkpoint, place = _opened(task.checkpoint), torch.device(device)
    references = [part.reference() for part in load_pair(Path(task.pair))]
    plan = plan_of(
        references,
        task.config,
        place.type,
        str(precision_for(task.config.mixed_precision, place)),
        {"checkpoint": task.checkpoint.fingerprint},
    )

    def score(training: Training) -> float:
        paths = _previews(task.drawing, training.result().tailoring, folder)
        _draw(training.model, checkpoint, paths, task)
        return fmean(_scored(task.encoders, references, paths, place).likeness)

    def is_continued(training: Training) -> bool:
        return goes_on is None or judged(job, folder.parent, training.steps_done, lambda: score(training), goes_on)

    result, model = _learned(checkpoint, references, plan, Runs(folder / "runs"), place, is_continued)
    tailoring = result.tailoring
    paths = (_pictures if tailoring.finished else _previews)(task.drawing, tailoring, folder)
    file = TAILORING if tailoring.finished else f"tailoring_at_step_{tailoring.steps_done}.safetensors"
    if not (folder / file).exists():
        save_tailoring(tailoring, folder / file)
    if not all(path.exists() for path in paths.values()):
        if model is None:
            model = checkpoint.model(plan.class_words, task.config, place)
            put_into(model, tailoring)
        _draw(model, checkpoint, paths, task)
    final = result.history[-1]
    common: Row = {"pair": Path(task.pair).name, **task.varied, "tailoring": f"{folder.name}/{file}"}
    if not tailoring.finished:
        common["ended at step"] = tailoring.steps_done
    doubted = doubts(references, task.config.resolution or tailoring.family.resolution)
    if doubted:
        common[NOTES] = "; ".join(doubted)
    # by role, not by word: the same columns for all pairs
    losses = {"concept loss" if n == 0 else f"component {n} loss": loss for n, loss in enumerate(final.diffusion)}
    scores = _scored(task.encoders, references, paths, place).rows() if task.encoders else [{} for _ in paths]
    return [
        {
            **common,
            "prompt": prompt,
            "noise seed": seed,
            "picture": f"{folder.name}/{path.relative_to(folder).as_posix()}",
        }
        | losses
        | found
        for ((prompt, seed), path), found in zip(paths.items(), scores, strict=True)
    ]


def _pictures(drawing: Drawing, tailoring: Tailoring, folder: Path) -> Paths:
    wanted = [(prompt or tailoring.prompt, seed) for prompt in drawing.prompts for seed in drawing.seeds]
    return {drawn: folder / _picture_name(*drawn, drawing) for drawn in wanted}


def _previews(drawing: Drawing, tailoring: Tailoring, folder: Path) -> Paths:
    """What a training is judged by: the first of what it would draw at its end."""
    few = replace(drawing, prompts=drawing.prompts[:1], seeds=drawing.seeds[:PREVIEWS])
    return _pictures(few, tailoring, folder / f"at_step_{tailoring.steps_done}")


def _scored(encoders: tuple[str, ...], references: list[Reference], paths: Paths, device: torch.device) -> ScoreTable:
    """Of whole pictures, as they are on disk; by role, so that all pairs share their columns."""
    pictures = [read_picture(path).image for path in paths.values()]
    words = [reference.class_word for reference in references]
    prompts = [in_words(prompt, words) for prompt, _ in paths]
    roles = [f"component {n}" if n else "concept" for n in range(len(references))]
    opened = [_encoder(folder, device) for folder in encoders]
    return scored(pictures, references, opened, prompts=prompts, names=roles)


@lru_cache(maxsize=4)
def _encoder(folder: str, device: torch.device) -> Encoder:
    """An encoder, which this process keeps for its other jobs."""
    return load_encoder(Path(folder), device)


def _learned(
    checkpoint: Checkpoint,
    references: list[Reference],
    plan: Plan,
    runs: Runs,
    device: torch.device,
    is_continued: Callable[[Training], bool],
) -> tuple[TrainingResult, Backbone | None]:
    """What was learned, and the model that knows it if one was needed."""
    for left in range(WAITS, -1, -1):
        run = runs.choose(plan)
        record = run.record
        if record is not None and record.steps_done == plan.config.total_steps:
            return run.result(), None
        try:
            return _trained(checkpoint, references, plan, run, device, is_continued)
        except RunInUse:
            if not left:
                raise
            time.sleep(WAIT)
    raise AssertionError("the last wait raises")


def _trained(
    checkpoint: Checkpoint,
    references: list[Reference],
    plan: Plan,
    run: Run,
    device: torch.device,
    is_continued: Callable[[Training], bool],
) -> tuple[TrainingResult, Backbone]:
    model = checkpoint.model(plan.class_words, plan.config, device)
    training = Training(model, references, plan.config)
    run.restore(training)
    with run.kept(training, plan, run.folder) as keeper:
        steps = iter(training)
        while is_continued(training) and next(steps, None):
            keeper.after_step()
    return training.result(), model


def _draw(model: Backbone, checkpoint: Checkpoint, paths: Paths, task: TailorTask) -> None:
    """Draw what is not there yet."""
    drawing = task.drawing
    size = picture_size(model, drawing.width, drawing.height)
    for prompt in {drawing.negative_prompt, *(prompt for prompt, _ in paths)}:
        model.require_readable(prompt)
    decode = checkpoint.decoder(model.device)
    for (prompt, seed), path in paths.items():
        if path.exists():
            continue
        draw(
            model,
            decode,
            path,
            prompt,
            seed,
            size=size,
            steps=drawing.steps,
            cfg=drawing.cfg,
            negative_prompt=drawing.negative_prompt,
            checkpoint=Path(task.checkpoint.path).stem,
            tailoring=task.name,
        )


def _picture_name(prompt: str, seed: int, drawing: Drawing) -> str:
    """Says what is drawn, and tells apart what is drawn otherwise."""
    other = (prompt, drawing.steps, drawing.cfg, drawing.negative_prompt, drawing.width, drawing.height)
    digest = hashlib.blake2b(repr(other).encode(), digest_size=3).hexdigest()
    words = re.sub(r"\W+", "_", prompt).strip("_").encode()[:60].decode(errors="ignore")
    return f"{words}-{digest}-{seed}.png"


@lru_cache(maxsize=1)
def _opened(source: CheckpointSource) -> Checkpoint:
    """A checkpoint, which this process keeps for its other jobs."""
    for module in source.imports:
        importlib.import_module(module)
    tokenizer = None if source.tokenizer is None else Path(source.tokenizer)
    return open_checkpoint(Path(source.path), tokenizer, source.prediction_type)
