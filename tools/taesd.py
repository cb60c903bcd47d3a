"""A tiny random autoencoder in madebyollin/taesd's layout, for runs in which the checkpoint's own one is too slow."""

from __future__ import annotations

import pathlib

import torch

from .random_weights import Weights, averaged, centred, save_weights, signal_pairs

WIDTH = 64
RESIDUAL_GAIN = 0.05


def make_taesd(models_dir: str | pathlib.Path, seed: int = 0) -> tuple[pathlib.Path, pathlib.Path]:
    """Write `models_dir`/vae_approx/taesd_{encoder,decoder}.safetensors; the stock VAELoader lists them as "taesd".

    Latents are block means of 2 * colour - 1 and one random channel; decoding gives a blocky copy of the picture.
    """
    folder = pathlib.Path(models_dir) / "vae_approx"
    encoder, decoder = _encoder(Weights(seed)), _decoder(Weights(seed + 1))
    return save_weights(encoder, folder / "taesd_encoder.safetensors"), save_weights(
        decoder, folder / "taesd_decoder.safetensors"
    )


def _encoder(weights: Weights) -> dict[str, torch.Tensor]:
    way_in, way_out = signal_pairs(weights, WIDTH, 3)
    weights.signal("0", centred(2 * way_in), bias=-way_in.sum(1))
    _add_blocks(weights, [1])
    # a stride of 2 with symmetric padding: the 2x2 pixels that become one start at the kernel's centre
    halve = averaged(torch.eye(WIDTH), [(1, 1), (1, 2), (2, 1), (2, 2)])
    for index in (2, 6, 10):
        weights.signal(str(index), halve, bias=None)
        _add_blocks(weights, range(index + 1, index + 4))
    weights.signal("14", centred(torch.cat([way_out, torch.zeros(1, WIDTH)])), noise=0.1)
    return weights.tensors


def _decoder(weights: Weights) -> dict[str, torch.Tensor]:
    way_in, way_out = signal_pairs(weights, WIDTH, 3)
    weights.signal("1", centred(torch.cat([way_in, torch.zeros(WIDTH, 1)], 1)), noise=0.02)
    _add_blocks(weights, range(3, 6))
    for index, blocks in ((7, 3), (12, 3), (17, 1)):
        weights.signal(str(index), centred(torch.eye(WIDTH)), bias=None)
        _add_blocks(weights, range(index + 1, index + 1 + blocks))
    weights.signal("19", centred(way_out * 0.5), bias=0.5)
    return weights.tensors


def _add_blocks(weights: Weights, indices) -> None:
    for index in indices:
        for layer, gain in ((0, 1.0), (2, 1.0), (4, RESIDUAL_GAIN)):
            weights.layer(f"{index}.conv.{layer}", (WIDTH, WIDTH, 3, 3), gain=gain)
