"""Trainings on the command line that are ended from outside, again and again until one gets through."""

from __future__ import annotations

import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from magictailor.runs import Runs
from tools.comfyui import PACK_ROOT
from tools.tiny_checkpoint import make_tiny_checkpoint

from .table import Endings, Row
from .town import broken_files, temporary_files

WAYS = {"kill -9": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
PAIR = PACK_ROOT / "example_pairs" / "house_a+roof_a"
STEPS = 30  # of each phase


def command_line(folder: pathlib.Path, times: int, moments: random.Random) -> Iterator[Row]:
    """Every way of ending, so often."""
    checkpoint = make_tiny_checkpoint(folder / "checkpoint")
    whole = folder / "whole"
    if _started(checkpoint, whole).wait():
        raise SystemExit("the training that nothing ends has failed")
    (run,) = Runs(whole / "runs").all()
    expected = run.state.read_bytes()
    for name, way in WAYS.items():
        yield _ended(checkpoint, folder / name, times, way, moments, expected).row(f"command line, {name}")


def _ended(checkpoint, output, times, way, moments, expected) -> Endings:
    counts = Endings()
    while counts.times < times or not counts.through:
        target = output / str(counts.through)
        before = _steps(target)
        training = _started(checkpoint, target)
        # once it trains: before there is nothing to lose
        while training.poll() is None and _steps(target) <= before:
            time.sleep(0.01)
        if counts.times < times:
            time.sleep(moments.uniform(0.0, 2.0))
            if training.poll() is None:
                training.send_signal(way)
                counts.times += 1
        if training.wait() in (1, 2):
            raise SystemExit(f"a training in {target} has failed")
        counts.in_a_write += temporary_files(target) > 0
        counts.broken += broken_files(target)
        counts.lost += _steps(target) < before
        if _steps(target) == 2 * STEPS:
            (run,) = Runs(target / "runs").all()
            counts.through += 1
            counts.same += run.state.read_bytes() == expected
    return counts


def _started(checkpoint: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "magictailor", "train", "--pretrained_model_name_or_path", checkpoint,
        "--instance_data_dir", PAIR, "--output_dir", output, "--resolution", "64", "--lora_rank", "4",
        "--device", "cpu", "--phase1_train_steps", STEPS, "--phase2_train_steps", STEPS, "--snapshot_every", "10",
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), cwd=PACK_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _steps(output: pathlib.Path) -> int:
    """Of the run that is on disk, -1 without one."""
    return max((run.record.steps_done for run in Runs(output / "runs").all()), default=-1)
