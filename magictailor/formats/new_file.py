"""Files that are written whole or not at all, and never over another; and what they may be called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import InputError

_NAME = re.compile(r"[^<>:\"/\\|?*\[\]\x00-\x1f]+")


def checked_name(name: str) -> str:
    """A name for the files of a tailoring: may hold `/` for subfolders, may not lead out of the folder.

    Raises:
        InputError: it is empty, absolute, climbs with `..`, or holds characters that file names cannot have.
    """
    parts = name.strip().replace("\\", "/").removesuffix(".safetensors").split("/")
    for part in parts:
        if not part.strip(". ") or part != part.strip() or not _NAME.fullmatch(part):
            raise InputError(
                "name",
                f"{name!r} cannot be a file name; use letters, digits, - and _, and / for a subfolder: people/anna",
            )
    return "/".join(parts)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which gets the wanted name at the end; on an error nothing is left.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # created exclusively, so that nobody else's is ever replaced
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    temporary = None
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        os.replace(temporary, path)
        # NamedTemporaryFile makes files only their owner can read
        path.chmod(0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise
