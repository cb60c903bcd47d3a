"""Measures what two workers gain over one on the same toy town batch, and what a job costs beside its steps.

Run as `python -m benchmarks.batch_workers --out FOLDER` on an idle machine of two cores or more; FOLDER must not be
there. Each worker has one thread. Steps are those of training and, in drawing, of sampling with the decoding after
them; beside them are opening the checkpoint, building the model, preparing pictures, keeping states and writing files.
One worker is this process; two are new ones, whose start counts.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest import mock

import torch

from magictailor.backbones import Backbone
from magictailor.backbones.autoencoder import decode
from magictailor.batch import tailor
from magictailor.batch.jobs import Job, Row, perform
from magictailor.batch.study import CheckpointSource, Drawing, Study, found_pairs
from magictailor.config import TailorConfig
from magictailor.fingerprints import of_checkpoint_files
from toytown.model import CHECKPOINT, load_checkpoint
from toytown.pairs import MEASURED, write_folder
from toytown.settings import GUIDANCE, SAMPLER_STEPS, of_steps
from toytown.tailoring import trainable


@dataclass
class Clock:
    """Seconds that functions took all together."""

    seconds: float = 0.0

    def timed(self, function: Callable) -> Callable:
        def call(*arguments, **more):
            started = time.perf_counter()
            try:
                return function(*arguments, **more)
            finally:
                self.seconds += time.perf_counter() - started

        return call


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True)
    for pair in MEASURED[: options.pairs]:
        write_folder(pair, options.out / "pairs")
    print(f"{options.pairs} pairs, {options.steps} steps, {options.pictures} pictures each")
    for round_ in range(options.rounds):
        print(measured(options.out, options.steps, options.pictures, round_))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_workers", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for everything; must not be there")
    parser.add_argument("--pairs", type=int, default=4, help="jobs of a batch, up to 8")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--pictures", type=int, default=8, help="drawn with each tailoring")
    parser.add_argument("--rounds", type=int, default=1, help="times that both batches are done")
    return parser.parse_args()


def measured(folder: pathlib.Path, steps: int, pictures: int, round_: int) -> str:
    """Both batches done once: a line for people."""
    jobs = study(folder / "pairs", steps, pictures).jobs()
    of_training, of_drawing = Clock(), Clock()
    training, draw = tailor.Training, tailor.draw
    with (
        mock.patch.object(training, "step", of_training.timed(training.step)),
        mock.patch.object(tailor, "draw", of_drawing.timed(draw)),
    ):
        alone, outcomes = done(jobs, folder / f"one_{round_}", 1)
    both, _ = done(jobs, folder / f"two_{round_}", 2)
    whole = sum(outcome.seconds for outcome in outcomes.values())
    trained, drawn = of_training.seconds / whole, of_drawing.seconds / whole
    return (
        f"1 worker {alone:.1f} s, 2 workers {both:.1f} s: {alone / both:.2f} times as fast; "
        f"a job {whole / len(jobs):.1f} s: training {trained:.1%}, drawing {drawn:.1%}, rest {1 - trained - drawn:.1%}"
    )


def study(pairs: pathlib.Path, steps: int, pictures: int) -> Study:
    """The demo's settings on every pair."""
    fingerprint = of_checkpoint_files(CHECKPOINT, None, None)
    return Study(
        pairs=tuple(found_pairs(pairs)),
        checkpoint=CheckpointSource(str(CHECKPOINT), None, None, fingerprint),
        settings=of_steps(steps),
        drawing=replace(Drawing(), seeds=tuple(range(pictures)), steps=SAMPLER_STEPS, cfg=GUIDANCE),
    )


class ToyCheckpoint:
    """The toy town's, which has a vocabulary of its own; see `magictailor.backbones.protocol.Checkpoint`."""

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> Backbone:
        return trainable(class_words, config)

    def decoder(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        autoencoder = load_checkpoint().autoencoder
        return lambda latents: decode(autoencoder, latents)


def tailored(job: Job, folder: pathlib.Path, device: str) -> list[Row]:
    """What `batch` does for a job, on the toy town's checkpoint."""
    with mock.patch.object(tailor, "_opened", lambda source: ToyCheckpoint()):
        return tailor.tailored(job, folder, device)


def done(jobs: list[Job], folder: pathlib.Path, workers: int) -> tuple[float, dict]:
    """Seconds that a batch took, and its outcomes.

    Raises:
        RuntimeError: a job failed.
    """
    started = time.perf_counter()
    outcomes = perform(tailored, jobs, folder, ["cpu"] * workers)
    seconds = time.perf_counter() - started
    failures = [outcome.failure for outcome in outcomes.values() if outcome.failure]
    if failures:
        raise RuntimeError(failures[0])
    return seconds, outcomes


if __name__ == "__main__":
    main()
