"""One job of a batch: train on a pair, save the tailoring, draw with it, score what is drawn."""

from __future__ import annotations

import hashlib
import importlib
import re
import time
from functools import lru_cache
from pathlib import Path

import torch

from ..backbones import Backbone, Checkpoint, open_checkpoint
from ..backbones.precision import precision_for
from ..drawing import draw
from ..formats.new_file import is_temporary
from ..formats.pair_folder import load_pair
from ..formats.picture_file import read_picture
from ..formats.tailoring_file import save_tailoring
from ..reference import Reference
from ..runs import Plan, Run, RunInUse, Runs, plan_of
from ..sampling import picture_size
from ..scores.encoders import VisionEncoder, load_encoder
from ..scores.table import scored
from ..tailoring import put_into
from ..tokens import in_words
from ..training import Training, TrainingResult
from .jobs import Job, Row
from .study import CheckpointSource, Drawing, TailorTask

TAILORING = "tailoring.safetensors"
# a process whose machine was given up ends within seconds of noticing
WAIT, WAITS = 1.0, 60


def tailored(job: Job, folder: Path, device: str) -> list[Row]:
    """Train, draw and score; every step that is on disk, and every picture, is taken from there.

    Args:
        job: with a `TailorTask`.

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
    result, model = _learned(checkpoint, references, plan, Runs(folder / "runs"), place)
    if not (folder / TAILORING).exists():
        save_tailoring(result.tailoring, folder / TAILORING)
    drawing = task.drawing
    wanted = [(prompt or result.tailoring.prompt, seed) for prompt in drawing.prompts for seed in drawing.seeds]
    paths = {drawn: folder / _picture_name(*drawn, drawing) for drawn in wanted}
    if missing := [drawn for drawn, path in paths.items() if not path.exists()]:
        if model is None:
            model = checkpoint.model(plan.class_words, task.config, place)
            put_into(model, result.tailoring)
        _draw(model, checkpoint, missing, paths, drawing, task)
    final = result.history[-1]
    common = {"pair": Path(task.pair).name, **task.varied, "tailoring": f"{folder.name}/{TAILORING}"}
    # by role, not by word: the same columns for all pairs
    losses = {"concept loss" if n == 0 else f"component {n} loss": loss for n, loss in enumerate(final.diffusion)}
    scores = _scores(task.encoders, references, paths, place)
    return [
        {**common, "prompt": prompt, "noise seed": seed, "picture": f"{folder.name}/{path.name}", **losses, **found}
        for ((prompt, seed), path), found in zip(paths.items(), scores, strict=True)
    ]


def _scores(
    encoders: tuple[str, ...], references: list[Reference], paths: dict[tuple[str, int], Path], device: torch.device
) -> list[dict[str, float]]:
    """Of whole pictures, as they are on disk; by role, so that all pairs share their columns."""
    if not encoders:
        return [{} for _ in paths]
    pictures = [read_picture(path).image for path in paths.values()]
    words = [reference.class_word for reference in references]
    prompts = [in_words(prompt, words) for prompt, _ in paths]
    roles = [f"component {n}" if n else "concept" for n in range(len(references))]
    opened = [_encoder(folder, device) for folder in encoders]
    return scored(pictures, references, opened, prompts=prompts, names=roles).rows()


@lru_cache(maxsize=4)
def _encoder(folder: str, device: torch.device) -> VisionEncoder:
    """An encoder, which this process keeps for its other jobs."""
    return load_encoder(Path(folder), device)


def _learned(
    checkpoint: Checkpoint, references: list[Reference], plan: Plan, runs: Runs, device: torch.device
) -> tuple[TrainingResult, Backbone | None]:
    """What was learned, and the model that knows it if one was needed."""
    for left in range(WAITS, -1, -1):
        run = runs.choose(plan)
        record = run.record
        if record is not None and record.steps_done == plan.config.total_steps:
            return run.result(), None
        try:
            return _trained(checkpoint, references, plan, run, device)
        except RunInUse:
            if not left:
                raise
            time.sleep(WAIT)
    raise AssertionError("the last wait raises")


def _trained(
    checkpoint: Checkpoint, references: list[Reference], plan: Plan, run: Run, device: torch.device
) -> tuple[TrainingResult, Backbone]:
    model = checkpoint.model(plan.class_words, plan.config, device)
    training = Training(model, references, plan.config)
    run.restore(training)
    with run.kept(training, plan, run.folder) as keeper:
        for _ in training:
            keeper.after_step()
    return training.result(), model


def _draw(
    model: Backbone,
    checkpoint: Checkpoint,
    wanted: list[tuple[str, int]],
    paths: dict[tuple[str, int], Path],
    drawing: Drawing,
    task: TailorTask,
) -> None:
    size = picture_size(model, drawing.width, drawing.height)
    for prompt in {drawing.negative_prompt, *(prompt for prompt, _ in wanted)}:
        model.require_readable(prompt)
    decode = checkpoint.decoder(model.device)
    for prompt, seed in wanted:
        draw(
            model,
            decode,
            paths[prompt, seed],
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
