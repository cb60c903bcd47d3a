"""The parts of a folder in diffusers' layout. Nothing is ever downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError

CHECKPOINT = "pretrained_model_name_or_path"


def read_part(folder: Path, name: str, kind: Any) -> Any:
    """A module of a folder, frozen, on the CPU.

    Args:
        folder: of the whole checkpoint.
        name: of the part's folder in it.
        kind: class of diffusers or transformers.

    Raises:
        InputError: it cannot be loaded; names the checkpoint.
    """
    part_folder = folder / name
    plain = any(".fp16." not in path.name for path in (*part_folder.glob("*.safetensors"), *part_folder.glob("*.bin")))
    try:
        part = kind.from_pretrained(part_folder, local_files_only=True, variant=None if plain else "fp16")
    except (OSError, ValueError) as error:
        raise InputError(CHECKPOINT, f"{part_folder} cannot be loaded ({str(error)[:300]})") from error
    return part.requires_grad_(False)


def read_config(folder: Path, part: str, name: str) -> dict[str, Any]:
    """What a JSON file of a part says.

    Raises:
        InputError: it cannot be read; names the checkpoint.
    """
    path = folder / part / name
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            CHECKPOINT, f"{folder} is not a diffusers folder: {part}/{name} cannot be read ({type(error).__name__})"
        ) from error
