"""Seconds that a checkpoint costs before and after the steps, where no host is at hand: conversion and clean-up.

    python -m benchmarks.conversion --shape sd15            on a GPU if there is one

The part of `benchmarks.node_overhead` that is the library's; that one measures the whole node in the real host.
"""

from __future__ import annotations

import argparse
import time

import diffusers
import torch

from magictailor.backbones import CheckpointWeights
from magictailor.backbones.stable_diffusion.backbone import build_model
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.config import TailorConfig
from magictailor.training import Training
from tools.checkpoint import family_state_dict

from .host import FAMILIES
from .measuring import memory, name_of, release, synchronise
from .shapes import SHAPES, word_tokenizer
from .training_step import references


def main() -> None:
    diffusers.logging.set_verbosity_error()
    options = parse_options()
    device = torch.device(options.device)
    state = family_state_dict(FAMILIES[options.shape])
    unet, encoder, autoencoder = (
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in ("model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model.")
    )
    weights = CheckpointWeights(unet, {"clip_l": encoder}, autoencoder, scaled_linear_schedule(), word_tokenizer)
    print(f"{options.shape}, {options.resolution} pixels, {name_of(device)}")
    for number in range(1, options.runs + 1):
        print_row(number, *measured(weights, options.resolution, device))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=FAMILIES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, default=64, help="pixels")
    parser.add_argument("--runs", type=int, default=2, help="the first one also warms up")
    return parser.parse_args()


def measured(weights: CheckpointWeights, resolution: int, device: torch.device) -> tuple[float, float, int]:
    """Seconds before and after a step, and bytes of the device that are still held at the end."""
    release(device)
    start = memory(device)
    config = TailorConfig(phase1_train_steps=1, phase2_train_steps=0, resolution=resolution)
    began = time.perf_counter()
    training = Training(build_model(weights, ["tower", "roof"], config, device), references(SHAPES["small"]), config)
    synchronise(device)
    before = time.perf_counter() - began
    report = training.step()
    began = time.perf_counter()
    training.result([report])
    del training
    release(device)
    return before, time.perf_counter() - began, memory(device) - start


def print_row(number: int, before: float, after: float, left: int) -> None:
    print(f"run {number}: {before:.2f} s before the steps, {after:.2f} s after them, {left / 2**20:+.0f} MiB held")


if __name__ == "__main__":
    main()
