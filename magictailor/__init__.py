"""MagicTailor: component-controllable personalization of image models (arXiv 2410.13370).

    checkpoint = open_checkpoint(Path("model.safetensors"), tokenizer=Path("tokenizer"))
    config = TailorConfig()
    model = checkpoint.model(["tower", "roof"], config, torch.device("cuda"))
    result = train(model, [Reference("tower", ...), Reference("roof", ...)], config)
    save_tailoring(result.tailoring, Path("tower_with_roof.safetensors"))

What trains and draws is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import open_checkpoint as open_checkpoint
    from .backbones import register as register
    from .config import TailorConfig as TailorConfig
    from .errors import InputError as InputError
    from .formats.pair_folder import load_pair as load_pair
    from .formats.tailoring_file import load_tailoring as load_tailoring
    from .formats.tailoring_file import save_tailoring as save_tailoring
    from .reference import Reference as Reference
    from .runs import Runs as Runs
    from .sampling import sample as sample
    from .tailoring import Tailoring as Tailoring
    from .tailoring import put_into as put_into
    from .training import Training as Training
    from .training import TrainingDiverged as TrainingDiverged
    from .training import train as train

_HOMES = {
    "InputError": "errors",
    "Reference": "reference",
    "Runs": "runs",
    "TailorConfig": "config",
    "Tailoring": "tailoring",
    "Training": "training",
    "TrainingDiverged": "training",
    "load_pair": "formats.pair_folder",
    "load_tailoring": "formats.tailoring_file",
    "open_checkpoint": "backbones",
    "put_into": "tailoring",
    "register": "backbones",
    "sample": "sampling",
    "save_tailoring": "formats.tailoring_file",
    "train": "training",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
