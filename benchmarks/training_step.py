"""Seconds and memory of a training step: ours in each mode against the textbook, in one process on the same draws.

    python -m benchmarks.training_step                      the small SD 1.x of the tests, on the CPU
    python -m benchmarks.training_step --shape sd15         full size, on a GPU if there is one
    python -m benchmarks.training_step --shape sdxl --modes balanced --limit-gib 16

It first checks, in 32 bits, that both give the same losses and the same gradients of the LoRA. A mode that runs out of
the card's memory, or of the part of it that --limit-gib leaves, is reported as not fitting. All rows of a GPU at once:
benchmarks/on_gpu.sh.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from magictailor.backbones.clip import text_attention
from magictailor.backbones.placement import HOME
from magictailor.backbones.precision import precision_for
from magictailor.balancing import DS_BAL, WARM_UP
from magictailor.config import TailorConfig
from magictailor.memory import FASTEST, MemoryPlan
from magictailor.reference import Reference
from magictailor.training import Training

from .measuring import limit_memory, memory, name_of, peak_memory, release, reset_peak, synchronise
from .shapes import SHAPES, Shape, at_resolution, make_model, make_parts
from .textbook import Textbook, textbook_of

TEXTBOOK = "textbook"
# rungs of `memory`, some with the number of pictures at a time
OURS = {
    "fastest": FASTEST,
    "fast-3": MemoryPlan("fast", 3),
    "fast-1": MemoryPlan("fast", 1),
    "balanced": MemoryPlan("balanced", checkpointing=True),
    "balanced-1": MemoryPlan("balanced", 1, checkpointing=True),
    "small-1": MemoryPlan("small", 1, checkpointing=True, others_away=True),
    "smallest-1": MemoryPlan("smallest", 1, checkpointing=True, others_away=True, network_away=True),
}
MODES = (TEXTBOOK, *OURS)
LARGEST_DIFFERENCE = 1e-4
PICTURES = 3


@dataclass(frozen=True)
class Measurement:
    """Seconds of each step by phase, FLOPs of a step by phase, and the peak of memory in bytes above the start."""

    seconds: dict[str, list[float]]
    flops: dict[str, int]
    peak: int

    def median(self, phase: str) -> float:
        return statistics.median(self.seconds[phase])


def main() -> None:
    # casting networks made here is harmless; diffusers warns about it each time
    diffusers.logging.set_verbosity_error()
    options = parse_options()
    device = torch.device(options.device)
    if options.limit_gib is not None:
        limit_memory(device, options.limit_gib)
    shape = at_resolution(SHAPES[options.shape], options.resolution)
    modes = [mode for mode in options.modes if shape.textbook or mode != TEXTBOOK]
    limit = "" if options.limit_gib is None else f", at most {options.limit_gib:g} GiB"
    print(f"{options.shape}, {shape.resolution} pixels, {PICTURES}+{PICTURES} pictures, {name_of(device)}{limit}")
    if shape.textbook and not options.skip_check:
        print(f"same losses and LoRA gradients in 32 bits: largest relative difference {checked(shape, device):.1e}")
    rate = matrix_rate(device) if device.type == "cuda" else None
    results = {}
    for mode in modes:
        try:
            results[mode] = measured(mode, shape, device, options.steps, options.precision)
        except torch.OutOfMemoryError:
            print(f"{mode:13} does not fit")
            continue
        print_row(mode, results[mode], results.get(TEXTBOOK), rate)
    for mode, result in results.items():
        per_run = 200 * result.median(WARM_UP) + 300 * result.median(DS_BAL)
        print(f"{mode}: 200 + 300 steps take {per_run:.0f} s")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, help="pixels; the family's own by default")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each phase, after one that is not")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=(TEXTBOOK, "fastest", "fast-1"))
    parser.add_argument("--precision", choices=("auto", "bf16", "fp16", "no"), default="auto", help="of all modes")
    parser.add_argument("--limit-gib", type=float, help="of a GPU's memory, to see what fits a smaller card")
    parser.add_argument("--skip-check", action="store_true", help="do not compare losses and gradients first")
    return parser.parse_args()


def config_of(shape: Shape, steps: int, **changes) -> TailorConfig:
    return TailorConfig(
        phase1_train_steps=steps,
        phase2_train_steps=steps,
        resolution=shape.resolution,
        **changes,
    )


def references(shape: Shape) -> list[Reference]:
    generator = torch.Generator().manual_seed(0)
    side = shape.resolution
    mask = torch.zeros(side, side)
    mask[side // 4 : side // 2, side // 4 : 3 * side // 4] = 1.0
    pictures = [torch.rand(3, side, side, generator=generator) for _ in range(2 * PICTURES)]
    return [
        Reference(word, tuple(pictures[n * PICTURES : (n + 1) * PICTURES]), (mask,) * PICTURES)
        for n, word in enumerate(("tower", "roof"))
    ]


def make_training(shape: Shape, config: TailorConfig, device: torch.device, plan: MemoryPlan = FASTEST) -> Training:
    # what is to be away must not be on the device first
    parts = make_parts(shape, precision_for(config.mixed_precision, device), HOME, text_attention(device))
    return Training(make_model(shape, config, parts, device=device), references(shape), config, plan=plan)


def make_textbook(shape: Shape, config: TailorConfig, device: torch.device) -> Textbook:
    # the textbook keeps its base weights in 32 bits and leaves the rest to autocast
    training = make_training(shape, config, device)
    parts = make_parts(shape, torch.float32, device)
    encoder = parts.encoders[shape.described.text_encoders[0].key]
    return textbook_of(training, (parts.network, encoder, parts.autoencoder))


def checked(shape: Shape, device: torch.device) -> float:
    """Largest relative difference of losses and LoRA gradients over two steps of each phase, in 32 bits.

    Raises:
        SystemExit: it is larger than LARGEST_DIFFERENCE.
    """
    # Adam's usual epsilon turns rounding into whole steps where a gradient is nearly 0
    config = config_of(shape, 2, mixed_precision="no", adam_epsilon=1e-3)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    training = make_training(shape, config, device)
    textbook = make_textbook(shape, config, device)
    largest = 0.0
    for step in range(1, config.total_steps + 1):
        draws = training.draw(step)
        report, expected = training.step(draws), textbook.step(draws)
        largest = max(largest, abs(report.loss / expected["loss"].item() - 1.0))
        for name, parameter in training.lora.items():
            other = textbook.lora[name].grad
            # the factor that is 0 at first gives the other no gradient at all
            if other.abs().max() > 0:
                largest = max(largest, ((parameter.grad - other).abs().max() / other.abs().max()).item())
    torch.backends.cudnn.allow_tf32 = tf32
    if largest > LARGEST_DIFFERENCE:
        raise SystemExit(f"ours and the textbook disagree: largest relative difference {largest:.1e}")
    return largest


def measured(mode: str, shape: Shape, device: torch.device, steps: int, precision: str) -> Measurement:
    release(device)
    start = memory(device)
    config = config_of(shape, steps + 1, mixed_precision=precision)
    if mode == TEXTBOOK:
        textbook = make_textbook(shape, config, device)
        drawing = make_training(shape, config, torch.device("cpu")) if device.type == "cpu" else None
        training_draw = (drawing or make_training(shape, config, device)).draw
        del drawing
        run: Callable = textbook.step
    else:
        training = make_training(shape, config, device, OURS[mode])
        training_draw, run = training.draw, training.step
    release(device)
    reset_peak(device)
    seconds: dict[str, list[float]] = {WARM_UP: [], DS_BAL: []}
    flops: dict[str, int] = {}
    for step in range(1, config.total_steps + 1):
        phase = WARM_UP if step <= config.phase1_train_steps else DS_BAL
        draws = training_draw(step)
        synchronise(device)
        began = time.perf_counter()
        if phase not in flops:
            with FlopCounterMode(display=False) as counter:
                run(draws)
            flops[phase] = counter.get_total_flops()
            continue
        run(draws)
        synchronise(device)
        seconds[phase].append(time.perf_counter() - began)
    return Measurement(seconds, flops, peak_memory(device) - start)


def print_row(mode: str, result: Measurement, textbook: Measurement | None, rate: float | None) -> None:
    for phase, seconds in result.seconds.items():
        median = statistics.median(seconds)
        line = (
            f"{mode:13} {phase:8} {median:8.3f} s/step ({min(seconds):.3f} to {max(seconds):.3f})  "
            f"{result.flops[phase] / 1e12:7.2f} TFLOP  peak {result.peak / 2**30:6.2f} GiB"
        )
        if textbook is not None:
            line += (
                f"  {textbook.median(phase) / median:5.2f}x as fast, {result.peak / textbook.peak:4.0%} of the memory"
            )
        if rate is not None:
            line += f"  {result.flops[phase] / median / rate:4.0%} of the chip's matrix rate"
        print(line, flush=True)


def matrix_rate(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """FLOP per second of a large bf16 matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    synchronise(device)
    return repeats * 2 * size**3 / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
