"""Files that are written whole or not at all, and over another only where that is asked for."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_TEMPORARY = ".magictailor_"
_TEMPORARY_NAME = re.compile(rf"{re.escape(_TEMPORARY)}[0-9a-f]{{16}}\.tmp|\.tmp[0-9A-Za-z]{{6}}")


def free_names(wanted: str) -> Iterator[str]:
    """Names to try one after the other: wanted, wanted_2, wanted_3 ..."""
    return (wanted if number == 1 else f"{wanted}_{number}" for number in count(1))


def file_words(class_words: Iterable[str]) -> str:
    """Class words as a part of a file's name: house_with_roof_tiles; cut off where it gets long."""
    joined = "_with_".join(re.sub(r"\W+", "_", word) for word in class_words)
    # a name has 255 bytes at most, and more is added to this one
    return joined.encode()[:120].decode(errors="ignore") or "tailoring"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which gets the wanted name when it is whole; on an error nothing is left.

    The wanted name never stands for an empty or a partial file, whenever the process or the machine stops. What such a
    stop can leave is a temporary file, see `is_temporary`.

    Yields:
        path of an empty file in the same folder; write it, by that name, and close it.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
        OSError: the folder cannot be written, or the disk is full.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _written(path, _name) as temporary:
        yield temporary


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """As `new_file`, in place of the file that may be there, which stays until the new one is whole.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the file is as it was.
    """
    with _written(path, os.replace) as temporary:
        yield temporary


@contextmanager
def _written(path: Path, name: Callable[[Path, Path], None]) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # of a short name, whatever the wanted one
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    rights = temporary.stat().st_mode
    try:
        yield temporary
        # safetensors replaces the file by one that only its owner can read; some mounts refuse to change that
        with suppress(OSError):
            temporary.chmod(rights)
        _flush(temporary)
        name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that was written to when its process was killed: of `new_file`, or of safetensors."""
    return _TEMPORARY_NAME.fullmatch(path.name) is not None


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # a file system without links, such as exFAT
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(temporary, path)


def _flush(path: Path) -> None:
    """Wait until what was written is on the disk."""
    # Windows flushes only what is open for writing
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk, where the system offers that."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
