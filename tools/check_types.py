"""Checks types with mypy: strictly in the library, ordinarily in the nodes.

Run as `python -m tools.check_types`. The nodes import the library relatively, as parts of a package whose name is the
folder that somebody cloned into; they are checked in a copy under a name that Python can import.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "magictailor_pack"
# of the host there is nothing to see: it is no installed package
NODES = ("--ignore-missing-imports", "--follow-imports=silent", "--config-file=", "--check-untyped-defs")


def main() -> int:
    """Exit status: 0 if no error was found."""
    # beside each other, with a cache of their own: mypy uses one processor
    library = subprocess.Popen([sys.executable, "-m", "mypy"], cwd=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        pack = pathlib.Path(folder) / NAME
        for part in ("nodes", "magictailor"):
            shutil.copytree(ROOT / part, pack / part)
        shutil.copy2(ROOT / "__init__.py", pack)
        cache = f"--cache-dir={ROOT / '.mypy_cache' / 'nodes'}"
        nodes = subprocess.run([sys.executable, "-m", "mypy", *NODES, cache, "-p", f"{NAME}.nodes"], cwd=folder)
    return library.wait() or nodes.returncode


if __name__ == "__main__":
    sys.exit(main())
