"""Where trainings and Save Tailoring put what they leave."""

import tempfile
from pathlib import Path

import folder_paths


def runs_folder() -> Path:
    """Of trainings that go on, or can: output/magictailor/runs."""
    return Path(folder_paths.get_output_directory()) / "magictailor" / "runs"


def loras_folder() -> Path:
    """Of tailorings that were not saved by a node: output/loras, where the host looks for LoRAs too."""
    return Path(folder_paths.get_output_directory()) / "loras"


def writable_folder(kind: str) -> Path:
    """The first of the host's folders of a kind, such as "loras", that can be written; the first of all if none can."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    return next((folder for folder in folders if _can_be_written(folder)), folders[0])


def not_first(loras: Path, embeddings: Path) -> list[Path]:
    """Which of these folders is not the one that the host looks into first."""
    firsts = (Path(folder_paths.get_folder_paths(kind)[0]) for kind in ("loras", "embeddings"))
    return [folder for folder, first in zip((loras, embeddings), firsts, strict=True) if folder != first]


def _can_be_written(folder: Path) -> bool:
    """Whether it can, shown by doing it: what the system says of rights is not true of every mount."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
