"""The folder of all jobs on a storage that has no paths, such as a bucket, through fsspec.

A job is done in a folder of the machine's own: what the storage has of it is brought there first, and what is new there
is stored while it is done, so that another machine can go on from it. Its result is stored last.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

from ..errors import InputError
from ..formats.new_file import is_temporary
from ..runs import LOCK

EVERY = 20.0  # seconds from one look at what is new to the next


@dataclass(frozen=True)
class Storage:
    """A folder by its address.

    Attributes:
        url: `s3://bucket/study`, `file:///shared/study`, whatever fsspec knows.
    """

    url: str

    def require(self) -> None:
        """Refuse an address that cannot be used.

        Raises:
            InputError: it is of an unknown kind, or a package for it is missing; names "output_dir".
        """
        try:
            self._opened()
        except (ImportError, ValueError) as error:
            raise InputError(
                "output_dir",
                f"{self.url} cannot be opened ({error}); pip install -r requirements-batch.txt has fsspec",
            ) from error

    def read(self, name: str) -> bytes | None:
        """A file below the folder; None if it is not there."""
        files, root = self._opened()
        try:
            content: bytes = files.cat_file(f"{root}/{name}")
            return content
        except FileNotFoundError:
            return None

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """Bring files to a folder, each to its place below it."""
        files, root = self._opened()
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(f"{root}/{name}", str(path))

    def store(self, folder: Path, names: Iterable[str]) -> None:
        """Take files of a folder to the storage, each whole or not at all, over those of the same name."""
        files, root = self._opened()
        for name in names:
            target = f"{root}/{name}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            # a file that is opened in a transaction gets its name when the transaction ends
            with files.transaction, (folder / name).open("rb") as source, files.open(target, "wb") as there:
                shutil.copyfileobj(source, there)

    @contextmanager
    def brought(self, job: str, last: Callable[[str], bool]) -> Iterator[Path]:
        """A folder of this machine with what the storage has of a job; what is new in it is stored.

        Args:
            job: name of its folder.
            last: which files are stored after all others, once the job is over.

        Yields:
            the folder in which the job's own is.

        Raises:
            OSError: the storage cannot be read or written.
        """
        with TemporaryDirectory(prefix="magictailor_") as place:
            folder = Path(place)
            self.fetch(self._names(job), folder)
            mirror = _Mirror(self, folder, last)
            over = Event()
            storing = Thread(target=mirror.until, args=(over,), daemon=True)
            storing.start()
            try:
                yield folder
            finally:
                over.set()
                storing.join()
                mirror.store()
            mirror.store_last()

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no fault."""
        files, root = self._opened()
        for name in names:
            try:
                files.rm_file(f"{root}/{name}")
            except FileNotFoundError:
                pass

    def _names(self, job: str) -> list[str]:
        files, root = self._opened()
        try:
            found = files.find(f"{root}/{job}")
        except FileNotFoundError:
            return []
        names = [PurePosixPath(path).relative_to(PurePosixPath(root)) for path in found]
        # buckets know no folders, so a name can hold anything
        return [str(name) for name in names if ".." not in name.parts]

    def _opened(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")


def read_file(folder: Path | Storage, name: str) -> bytes | None:
    """A file below the folder of all jobs; None if it is not there."""
    if isinstance(folder, Storage):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.exists() else None


class _Mirror:
    """Stores what is new in a folder since it was last looked at."""

    def __init__(self, storage: Storage, folder: Path, last: Callable[[str], bool]) -> None:
        self.storage, self.folder, self.last = storage, folder, last
        self.known = self._found()

    def until(self, over: Event) -> None:
        """Store again and again, until the job is over."""
        while not over.wait(EVERY):
            try:
                self.store()
            except Exception as error:  # each storage has its own
                logging.warning(
                    "MagicTailor: %s could not be written (%s); it is tried again.", self.storage.url, error
                )

    def store(self) -> None:
        """Store new files, then remove those that are gone: a run has a whole state at any time."""
        found = self._found()
        for name in [name for name, seen in found.items() if self.known.get(name) != seen and not self.last(name)]:
            try:
                self.storage.store(self.folder, [name])
            except FileNotFoundError:
                continue  # a state that the next one has replaced
            self.known[name] = found[name]
        gone = [name for name in self.known if name not in found]
        self.storage.remove(gone)
        for name in gone:
            del self.known[name]

    def store_last(self) -> None:
        """Store what says that the job is done."""
        self.storage.store(self.folder, [name for name in self._found() if self.last(name) and name not in self.known])

    def _found(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != LOCK and not is_temporary(path):
                try:
                    seen = path.stat()
                except FileNotFoundError:
                    continue
                found[path.relative_to(self.folder).as_posix()] = (seen.st_mtime_ns, seen.st_size)
        return found
