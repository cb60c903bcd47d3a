"""Where trainings put what they leave, in the host's output folder."""

from pathlib import Path

import folder_paths


def runs_folder() -> Path:
    """Of trainings that go on, or can: output/magictailor/runs."""
    return Path(folder_paths.get_output_directory()) / "magictailor" / "runs"


def loras_folder() -> Path:
    """Of tailorings that were not saved by a node: output/loras, where the host looks for LoRAs too."""
    return Path(folder_paths.get_output_directory()) / "loras"
