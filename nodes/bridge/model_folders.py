"""Folders in which the host finds models that it does not know itself."""

import os
from pathlib import Path

import folder_paths

from ...magictailor.errors import InputError
from ...magictailor.scores.perceptual import DREAMSIM, LPIPS, perceptual_of

DINO_FOLDER, SAM_FOLDER, BERT_FOLDER = "grounding-dino", "sams", "bert-base-uncased"
PERCEPTUAL_FOLDERS = {DREAMSIM: "dreamsim", LPIPS: "lpips"}
_MODEL_SUFFIXES = (".pth", ".pt", ".safetensors", ".sft")


def register_model_folders() -> None:
    """Make models/grounding-dino, sams, bert-base-uncased, dreamsim and lpips known to the host.

    Only adds: paths from extra_model_paths.yaml, and from other packs that use the same names, stay and come first.
    """
    for name in (DINO_FOLDER, SAM_FOLDER, BERT_FOLDER, *PERCEPTUAL_FOLDERS.values()):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def model_files(folder: str, example: str) -> list[str]:
    """The model files in a folder; if there are none, one entry that says what to put where."""
    files = [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(_MODEL_SUFFIXES)]
    return files or [f"put {example} into models/{folder}"]


def located(folder: str, name: str, field: str) -> str:
    """Path of a listed model file.

    Raises:
        InputError: it is not there (any more); names `field`.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise InputError(field, f'There is no "{name}" in models/{folder}. Put the file there, press R and choose it.')
    return path


def bert_folder() -> Path:
    """The first registered folder with a vocabulary; else the host's own, so that the error says where to put one."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(BERT_FOLDER)]
    for folder in folders:
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            return folder
    return Path(folder_paths.models_dir) / BERT_FOLDER


def perceptual_folder(measure: str) -> Path:
    """The first registered folder with weights of DreamSim or LPIPS; else the host's own, so that an error names it."""
    name = PERCEPTUAL_FOLDERS[measure]
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(name)]
    with_weights = [folder for folder in folders if perceptual_of(folder) == measure]
    return with_weights[0] if with_weights else Path(folder_paths.models_dir) / name
