"""Random weights with a path through them along which the input reaches the output."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterable, Iterator

import safetensors.torch
import torch


def save_weights(tensors: dict[str, torch.Tensor], path: str | pathlib.Path) -> pathlib.Path:
    """Write a .safetensors file, its folder included. An interrupted run never leaves half a file under that name."""
    with _whole(path) as partial:
        safetensors.torch.save_file(tensors, partial)
    return pathlib.Path(path)


def save_torch(weights: dict, path: str | pathlib.Path) -> pathlib.Path:
    """Write a file by torch.save (.pth, .ckpt), in which shared memory is stored once; else as `save_weights`."""
    with _whole(path) as partial:
        torch.save(weights, partial)
    return pathlib.Path(path)


@contextlib.contextmanager
def _whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)


class Weights:
    """A state dict under construction; every random tensor comes from one seeded generator, in order."""

    def __init__(self, seed: int):
        self.tensors: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * std

    def put(self, key: str, tensor: torch.Tensor) -> None:
        self.tensors[key] = tensor.half().contiguous()

    def layer(self, key: str, shape: tuple[int, ...], gain: float = 1.0, bias: bool = True) -> None:
        """A linear or convolution layer whose output has about `gain` times the deviation of its input."""
        fan_in = torch.Size(shape[1:]).numel()
        self.put(key + ".weight", self.random(*shape, std=gain * fan_in**-0.5))
        if bias:
            self.put(key + ".bias", self.random(shape[0], std=0.02))

    def norm(self, key: str, channels: int) -> None:
        self.put(key + ".weight", 1 + self.random(channels, std=0.05))
        self.put(key + ".bias", self.random(channels, std=0.05))

    def signal(
        self, key: str, matrix: torch.Tensor, noise: float = 0.0, bias: torch.Tensor | float | None = 0.0
    ) -> None:
        """A layer of the signal path: `matrix` (out, in[, k, k]) plus random weights of gain `noise`."""
        fan_in = matrix[0].numel()
        self.put(key + ".weight", matrix + self.random(*matrix.shape, std=noise * fan_in**-0.5))
        if bias is not None:
            self.put(key + ".bias", torch.zeros(matrix.shape[0]) + bias)


# --- the signal path: every value travels as a pair (a, -a), which SiLU and ReLU turn into parts whose difference is a


def signal_pairs(weights: Weights, channels: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random way in (channels, inputs) with rows in pairs (r, -r), and the way out (inputs, channels) undoing it."""
    rows = torch.nn.functional.normalize(weights.random(channels // 2, inputs))
    back = torch.linalg.pinv(rows)
    return torch.stack([rows, -rows], 1).flatten(0, 1), torch.stack([back, -back], 2).flatten(1, 2)


def centred(matrix: torch.Tensor, size: int = 3) -> torch.Tensor:
    """The matrix (out, in) as a convolution that looks at one pixel only."""
    kernel = torch.zeros(*matrix.shape, size, size)
    kernel[:, :, size // 2, size // 2] = matrix
    return kernel


def averaged(matrix: torch.Tensor, taps: Iterable[tuple[int, int]]) -> torch.Tensor:
    """The matrix (out, in) as a 3x3 convolution over the mean of the pixels at `taps`."""
    taps = list(taps)
    kernel = torch.zeros(*matrix.shape, 3, 3)
    for row, column in taps:
        kernel[:, :, row, column] = matrix / len(taps)
    return kernel
