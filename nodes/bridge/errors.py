"""Errors that name the node they come from and say what to do there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...magictailor.errors import InputError

# for every node that takes both
SAME_CHECKPOINT = {"clip": "connect MODEL and CLIP of the same checkpoint"}

TRAINING_REMEDIES = SAME_CHECKPOINT | {
    "run": "set resume to start over, and the damaged run stays as it is",
    "runs": "trainings are kept in output/magictailor/runs: make room, let it be written, or end the other training",
}


@contextmanager
def artist_errors(node: str, remedies: Mapping[str, str] | None = None) -> Iterator[None]:
    """Say which node, by its display name, an unusable input belongs to.

    Args:
        remedies: what to do on the canvas, by the input that cannot be used; the library knows of no nodes.

    Raises:
        ValueError: in place of the library's InputError.
    """
    try:
        yield
    except InputError as error:
        raise ValueError(described(node, error, remedies)) from error


def described(node: str, error: InputError, remedies: Mapping[str, str] | None = None) -> str:
    """The sentence that `artist_errors` raises."""
    remedy = (remedies or {}).get(error.field)
    return f"{node}, {error}; {remedy}" if remedy else f"{node}, {error}"
