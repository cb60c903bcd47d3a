"""Installs groundingdino-py, by itself: the second half of what this pack needs, after requirements.txt.

The package asks for supervision==0.6.0 and opencv-python, which finding boxes never uses and which would replace the
newer or other ones of a user's other packs. ComfyUI-Manager and comfy-cli run this file after requirements.txt; by hand
it is `python install.py`, with the Python that runs ComfyUI. Run again, it does nothing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

DETECTOR = "groundingdino-py>=0.4.0"


def main() -> int:
    """Exit status: 0 when the package is there."""
    if importlib.util.find_spec("groundingdino") is not None:
        return 0
    status = subprocess.run([*installer(), "--no-deps", DETECTOR]).returncode
    if status != 0:
        print(
            f"MagicTailor: {DETECTOR} could not be installed. Only the nodes that make masks from words need it. "
            f"To try again: `{sys.executable} {__file__}`",
            file=sys.stderr,
        )
    return status


def installer() -> list[str]:
    """`pip install` of this Python; uv's where it has no pip of its own."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


if __name__ == "__main__":
    raise SystemExit(main())
