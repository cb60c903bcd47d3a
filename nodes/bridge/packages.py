"""Packages that only some nodes need: one that is missing or breaks on import costs those nodes and no others."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# by the name in `import`, the name in `pip install`
PACKAGES = {
    "accelerate": "accelerate",
    "diffusers": "diffusers",
    "groundingdino": "groundingdino-py",
    "matplotlib": "matplotlib",
    "peft": "peft",
    "segment_anything": "segment-anything",
    "timm": "timm",
}
# what it asks for would replace packages of other packs, and is not used here
_ALONE = "groundingdino"
_THIS_PACK = __name__.rpartition(".nodes.")[0]


@contextmanager
def needed_packages(node: str) -> Iterator[None]:
    """Goes around what imports packages that the host does not bring, whether at once or on the way.

    Raises:
        RuntimeError: an import failed: one sentence for the artist, with the node, the package, what is wrong with it
            and what to do. Every other error passes.
    """
    try:
        yield
    except Exception as error:  # a broken package may raise anything
        cause = _first_cause(error)
        package = _culprit(cause) if _while_importing(cause) else None
        if package is None:
            raise
        raise RuntimeError(f"{node} {_complaint(package, cause)}") from error


def _complaint(package: str, cause: BaseException) -> str:
    name = PACKAGES.get(package, package)
    restart = "with the Python that runs ComfyUI, then start ComfyUI again"
    if isinstance(cause, ModuleNotFoundError) and cause.name == package:
        asked = f"--no-deps {name}" if package == _ALONE else name
        return f"needs the Python package {name}, which is not installed: run `python -m pip install {asked}` {restart}"
    said = str(cause).strip().partition("\n")[0]
    mend = f"run `python -m pip install --force-reinstall --no-deps {name}` {restart}"
    if package not in PACKAGES:
        mend += f"; or, if nothing needs it, do without: `python -m pip uninstall {name}`"
    return f"cannot start, because the Python package {name} breaks on import ({type(cause).__name__}: {said}): {mend}"


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: packages that import lazily raise an error of their own over it."""
    while (before := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = before
    return error


def _while_importing(error: BaseException) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ImportError) or any(frame.f_code.co_name == "<module>" for frame, _ in frames)


def _culprit(error: BaseException) -> str | None:
    """Top-level name of the package that could not be imported, else of the innermost one that was running, if any."""
    if isinstance(error, ImportError) and error.name and not error.name.startswith(_THIS_PACK):
        return error.name.partition(".")[0]
    running = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    outside = [name.partition(".")[0] for name in running if not name.startswith(_THIS_PACK)]
    return next((name for name in reversed(outside) if name not in sys.stdlib_module_names), None)
