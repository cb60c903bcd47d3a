"""Every kind of model that can be tailored has a room here; `protocol` says what each offers.

A new family is a subclass of `protocol.Family`, or an instance of one that is here already, handed to `register`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from . import stable_diffusion, stable_diffusion_3
from .protocol import Backbone, Checkpoint, CheckpointFile, CheckpointWeights, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..config import TailorConfig

__all__ = [
    "Backbone",
    "Checkpoint",
    "CheckpointWeights",
    "Family",
    "build",
    "family_named",
    "open_checkpoint",
    "recognise",
    "register",
    "registered",
    "supported",
]

CHECKPOINT = "pretrained_model_name_or_path"

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Let a family be recognised; one of the same name is replaced."""
    _FAMILIES[family.name] = family


def registered() -> tuple[Family, ...]:
    """All families, in the order in which they are asked whether weights are theirs."""
    return tuple(_FAMILIES.values())


def family_named(name: str) -> Family:
    """The family of a name that a tailoring has stored.

    Raises:
        KeyError: there is none.
    """
    return _FAMILIES[name]


def supported() -> str:
    """A sentence that names every family."""
    *others, last = (family.title for family in registered())
    return f"MagicTailor trains {', '.join(others)} and {last}"


def recognise(network: Mapping[str, Tensor], prediction_type: str) -> Family:
    """The family of a network by the shapes of its weights, and by what it predicts where these do not tell.

    Args:
        network: as in `CheckpointWeights`.
        prediction_type: as in `protocol.Schedule`.

    Raises:
        InputError: it is none of the families here; says what was found.
    """
    for family in registered():
        if family.fits(network, prediction_type):
            return family
    reasons = (kind.refusal(network) for kind in _kinds())
    reason = next(filter(None, reasons), "is no network of a kind known here")
    raise InputError("model", f"{reason}; {supported()}")


def build(
    weights: CheckpointWeights, class_words: Sequence[str], config: TailorConfig, device: torch.device
) -> Backbone:
    """The trainable copy of a checkpoint, see `Family.build`.

    Raises:
        InputError: it is of no family here, or its parts do not belong together; names "model", "clip" or "vae".
    """
    family = recognise(weights.network, weights.schedule.prediction_type)
    return family.build(weights, class_words, config, device)


def open_checkpoint(path: Path, tokenizer: Path | None = None, prediction_type: str | None = None) -> Checkpoint:
    """Open a checkpoint file, or a folder in diffusers' layout. Nothing is ever downloaded.

    Args:
        tokenizer: folder with the text encoders' vocabulary; None: the checkpoint's own, or a cached one.
        prediction_type: "epsilon" or "v_prediction"; None: as it is recognised.

    Raises:
        InputError: there is no such file or folder, or it cannot be used.
    """
    if path.is_dir():
        opened = (kind.open_folder(path, tokenizer, prediction_type) for kind in _kinds())
        lacking = f"{path} is not a diffusers folder of a kind known here"
    elif path.is_file():
        from ..formats.weights_file import read_weights

        file = CheckpointFile(path.name, read_weights(path, CHECKPOINT), tokenizer, prediction_type)
        opened = (kind.open_file(file) for kind in _kinds())
        lacking = f"{path.name} is not a whole checkpoint of a kind known here"
    else:
        raise InputError(CHECKPOINT, f"there is no {path}, and nothing is downloaded")
    checkpoint = next((found for found in opened if found is not None), None)
    if checkpoint is None:
        raise InputError(CHECKPOINT, f"{lacking}; {supported()}")
    return checkpoint


def _kinds() -> list[type[Family]]:
    return list(dict.fromkeys(type(family) for family in registered()))


for _family in (*stable_diffusion.FAMILIES, *stable_diffusion_3.FAMILIES):
    register(_family)
