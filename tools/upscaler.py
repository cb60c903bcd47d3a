"""A small random upscale model in Real-ESRGAN's layout: it returns a blocky copy, four times as large."""

from __future__ import annotations

import pathlib

import torch

from .random_weights import Weights, centred, save_torch, signal_pairs

WIDTH, GROWTH = 16, 32  # ESRGAN's 64 channels made few; its dense blocks always grow by 32
RESIDUAL_GAIN = 0.1
LEAK = 0.2  # slope of ESRGAN's LeakyReLU below zero


def make_upscaler(path: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write a .pth that the stock UpscaleModelLoader takes for a fourfold ESRGAN."""
    weights = Weights(seed)
    way_in, way_out = signal_pairs(weights, WIDTH, 3)
    weights.signal("conv_first", centred(2 * way_in), bias=-way_in.sum(1))
    for block in (1, 2, 3):
        channels = WIDTH
        for layer in (1, 2, 3, 4):
            weights.layer(f"body.0.rdb{block}.conv{layer}", (GROWTH, channels, 3, 3))
            channels += GROWTH
        weights.layer(f"body.0.rdb{block}.conv5", (WIDTH, channels, 3, 3), gain=RESIDUAL_GAIN)
    weights.layer("conv_body", (WIDTH, WIDTH, 3, 3), gain=RESIDUAL_GAIN)
    # of (a, -a) the activation leaves a difference of (1 + LEAK) * a
    restore = torch.block_diag(*[torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / (1 + LEAK)] * (WIDTH // 2))
    weights.signal("conv_up1", centred(torch.eye(WIDTH)))
    for name in ("conv_up2", "conv_hr"):
        weights.signal(name, centred(restore))
    weights.signal("conv_last", centred(way_out / (1 + LEAK) / 2), bias=0.5)
    return save_torch({"params_ema": weights.tensors}, path)
