"""Errors that name the node they come from."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..magictailor.errors import InputError


@contextmanager
def artist_errors(node: str) -> Iterator[None]:
    """Say which node, by its display name, an unusable input belongs to."""
    try:
        yield
    except InputError as error:
        raise ValueError(f"{node}, {error}") from error
