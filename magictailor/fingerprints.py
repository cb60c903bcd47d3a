"""Short texts that tell whether something a training depends on is the same as before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .backbones import CheckpointWeights
from .errors import InputError

SAMPLES = 1024  # of a weight tensor
BLOCKS, BLOCK = 256, 4096  # of a weight file, in bytes
# a host leaves a projection that its checkpoint has not, as those of Stable Diffusion 1.x, as memory happened to be
_LEFT_OUT = ("text_projection.weight", "logit_scale", "position_ids")
_OF_CHECKPOINTS = (".safetensors", ".sft", ".ckpt", ".bin", ".json", ".txt", ".model")


def of_checkpoint(weights: CheckpointWeights) -> dict[str, str]:
    """Of the three parts of a loaded checkpoint: "model", "clip" and "vae"."""
    clip = {
        f"{key}.{name}": tensor
        for key, encoder in weights.text_encoders.items()
        for name, tensor in encoder.items()
        if not name.endswith(_LEFT_OUT)
    }
    schedule = vars(weights.schedule)
    levels = {name: value for name, value in schedule.items() if isinstance(value, Tensor)}
    rest = repr(sorted((name, value) for name, value in schedule.items() if name not in levels))
    return {
        "model": _digest([of_weights(weights.network), of_weights(levels), rest]),
        "clip": _digest([of_weights(clip), repr(weights.text_layer)]),
        "vae": of_weights(weights.autoencoder),
    }


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """Of names, shapes, number formats and evenly spread values of weights.

    Gigabytes take a fraction of a second; training, merging or patching a checkpoint changes nearly all of its values.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        values = weights[name].detach().reshape(-1)
        sampled = values[:: max(1, len(values) // SAMPLES)].contiguous().cpu()
        digest.update(f"{name}:{tuple(weights[name].shape)}:{values.dtype};".encode())
        digest.update(sampled.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_checkpoint_files(path: Path, tokenizer: Path | None, prediction_type: str | None) -> str:
    """Of what `backbones.open_checkpoint` is given.

    Raises:
        InputError: there is no such file or folder.
    """
    if not path.exists():
        raise InputError("pretrained_model_name_or_path", f"there is no {path}, and nothing is downloaded")
    vocabulary = "" if tokenizer is None else of_files(tokenizer)
    return f"{of_files(path)}:{vocabulary}:{prediction_type}"


def of_files(path: Path) -> str:
    """Of a checkpoint file, or of those in a folder: their names, sizes and evenly spread parts."""
    if path.is_file():
        return _of_file(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in _OF_CHECKPOINTS and file.is_file())
    return _digest(f"{file.relative_to(path).as_posix()}:{_of_file(file)}" for file in files)


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for start in range(0, size, max(BLOCK, size // BLOCKS)):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def of_pictures(pictures: Iterable[Tensor]) -> str:
    """Of every value of pictures or masks."""
    digest = hashlib.blake2b(digest_size=16)
    for picture in pictures:
        digest.update(f"{tuple(picture.shape)};".encode())
        digest.update(picture.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()
