"""What becomes of trainings that are ended from outside: the command line, ended again and again until it gets through.

    python -m benchmarks.durability                 20 kills, 20 times Ctrl-C, 20 times SIGTERM, on a tiny checkpoint
    python -m benchmarks.durability --times 100     more of each

Prints a table. A run is lost when it goes on before the state that was on disk; a file is broken when its name says
that it is whole and it cannot be read. The bytes compared are those of the finished run's state: LoRA, words, momentum,
optimizer and history.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from magictailor.errors import InputError
from magictailor.formats.run_state import read_state
from magictailor.formats.tailoring_file import load_tailoring
from magictailor.runs import SNAPSHOT, STATE, Runs
from tools.comfyui import PACK_ROOT
from tools.tiny_checkpoint import make_tiny_checkpoint

WAYS = {"kill -9": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
PAIR = PACK_ROOT / "example_pairs" / "house_a+roof_a"


def main() -> None:
    parser = argparse.ArgumentParser(description="End trainings again and again; count what is lost.")
    parser.add_argument("--times", type=int, default=20, help="how often each way of ending is tried")
    parser.add_argument("--steps", type=int, default=40, help="of each phase of a training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        checkpoint = make_tiny_checkpoint(root / "checkpoint")
        whole = root / "whole"
        if _started(checkpoint, whole, given.steps).wait():
            raise SystemExit("the training that nothing ends has failed")
        (run,) = Runs(whole / "runs").all()
        print(f"{'ended by':<10}{'times':>7}{'runs lost':>11}{'broken files':>14}{'same bytes':>12}")
        for name, way in WAYS.items():
            lost, broken, same = _ended(checkpoint, root / name, given, way, moments, run.state.read_bytes())
            print(f"{name:<10}{given.times:>7}{lost:>11}{broken:>14}{same:>12}", flush=True)


def _ended(checkpoint, output, given, way, moments, expected) -> tuple[int, int, str]:
    """Runs lost, broken files, and how many of the trainings that got through have the expected bytes."""
    times = lost = broken = finished = same = 0
    while times < given.times or not finished:
        target = output / str(finished)
        before = _steps(target)
        training = _started(checkpoint, target, given.steps)
        # once it trains: before there is nothing to lose
        while training.poll() is None and _steps(target) <= before:
            time.sleep(0.01)
        if times < given.times:
            time.sleep(moments.uniform(0.0, 2.0))
            if training.poll() is None:
                training.send_signal(way)
                times += 1
        if training.wait() in (1, 2):
            raise SystemExit(f"a training in {target} has failed")
        broken += _broken(target)
        lost += _steps(target) < before
        if _steps(target) == 2 * given.steps:
            (run,) = Runs(target / "runs").all()
            finished += 1
            same += run.state.read_bytes() == expected
    return lost, broken, f"{same} of {finished}"


def _started(checkpoint, output, steps) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "magictailor", "train", "--pretrained_model_name_or_path", checkpoint,
        "--instance_data_dir", PAIR, "--output_dir", output, "--resolution", "64", "--lora_rank", "4",
        "--device", "cpu", "--phase1_train_steps", steps, "--phase2_train_steps", steps, "--snapshot_every", "10",
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), cwd=PACK_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _steps(output: pathlib.Path) -> int:
    """Of the run that is on disk, -1 without one."""
    return max((run.record.steps_done for run in Runs(output / "runs").all()), default=-1)


def _broken(output: pathlib.Path) -> int:
    count = 0
    for path in output.rglob("*.safetensors"):
        try:
            read_state(path) if STATE.fullmatch(path.name) else _loaded(path)
        except InputError:
            count += 1
    return count


def _loaded(path: pathlib.Path) -> None:
    embedding = path.stem.endswith(("_v0", "_v1")) and not SNAPSHOT.fullmatch(path.name)
    if not embedding:
        load_tailoring(path)
    elif path.stat().st_size == 0:
        raise InputError("embedding", f"{path.name} is empty")


if __name__ == "__main__":
    main()
