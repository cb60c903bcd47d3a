"""What MagicTailor Train costs beside the training steps: seconds, and memory of the process, in the real host.

    python -m benchmarks.node_overhead                      the small SD 1.x of the tests
    python -m benchmarks.node_overhead --shape sd15         full size, 3.2 GiB of weights in 32 bits

The host's models are on its device before the node runs, so that sending them away is counted too. Samples on the node,
which cost what drawing costs, are off unless --preview-every asks for them.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch

from .host import FAMILIES, Host, running_host
from .measuring import memory, name_of, peak_memory, release, reset_peak

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Overhead:
    """Seconds before, in and after the steps, and how far the process's memory grew, in bytes.

    Attributes:
        built: at most until the first step.
        trained: at most while the node ran.
        left: when it had ended and its outputs were dropped.
    """

    before: float
    steps: float
    after: float
    built: int
    trained: int
    left: int


def main() -> None:
    diffusers.logging.set_verbosity_error()
    options = parse_options()
    with running_host(options.shape, options.device) as host:
        weights = list(host.model.model.diffusion_model.parameters())
        unet = sum(w.numel() * w.element_size() for w in weights)
        print(
            f"{options.shape}, {options.resolution} pixels, {options.steps}+{options.steps} steps, "
            f"{name_of(host.device)}; the host's U-Net takes {unet / 2**30:.2f} GiB"
        )
        for number in range(1, options.runs + 1):
            print_row(number, measured(host, options), unet)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node_overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=FAMILIES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, default=64, help="pixels")
    parser.add_argument("--steps", type=int, default=1, help="of each phase")
    parser.add_argument("--preview-every", type=int, default=0, help="steps from one sample to the next; 0: none")
    parser.add_argument("--runs", type=int, default=2, help="of the node; the first one also warms up")
    return parser.parse_args()


def measured(host: Host, options: argparse.Namespace) -> Overhead:
    """Run the node once."""
    from comfy.model_management import load_models_gpu

    load_models_gpu([host.model, host.clip.patcher])
    training = importlib.import_module(f"{host.pack.__name__}.magictailor.training").Training
    clock = StepClock(training.step)
    training.step = lambda *arguments: clock(*arguments)
    release(host.device)
    release(CPU)
    reset_peak(CPU)
    start = memory(CPU)
    began = time.perf_counter()
    try:
        host.train(
            phase1_train_steps=options.steps,
            phase2_train_steps=options.steps,
            resolution=options.resolution,
            preview_every=options.preview_every,
        )
    finally:
        training.step = clock.step
    ended = time.perf_counter()
    trained = peak_memory(CPU) - start
    release(CPU)
    return Overhead(
        before=clock.first - began,
        steps=clock.seconds,
        after=ended - clock.first - clock.seconds,
        built=clock.peak - start,
        trained=trained,
        left=memory(CPU) - start,
    )


class StepClock:
    """A training step that knows when it was first called, the peak of memory until then, and its seconds in all."""

    def __init__(self, step: Callable):
        self.step, self.first, self.peak, self.seconds = step, 0.0, 0, 0.0

    def __call__(self, *arguments):
        began = time.perf_counter()
        if not self.first:
            self.first, self.peak = began, peak_memory(CPU)
        report = self.step(*arguments)
        self.seconds += time.perf_counter() - began
        return report


def print_row(number: int, result: Overhead, unet: int) -> None:
    grown = ", ".join(
        f"{size / 2**30:+.2f} GiB ({size / unet:.0%} of the U-Net) {when}"
        for size, when in (
            (result.built, "until the first step"),
            (result.trained, "at most"),
            (result.left, "afterwards"),
        )
    )
    print(
        f"run {number}: {result.before + result.after:.2f} s beside the steps ({result.before:.2f} before them, "
        f"{result.after:.2f} between and after them), {result.steps:.2f} s in them; memory of the process {grown}",
        flush=True,
    )


if __name__ == "__main__":
    main()
