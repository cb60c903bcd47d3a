"""Files that are written whole or not at all, and never over another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile


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
