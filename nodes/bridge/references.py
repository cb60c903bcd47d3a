"""References as nodes are given them."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ...magictailor.errors import InputError
from ...magictailor.reference import Reference
from .socket_types import WithoutMasks

COMPONENTS = tuple(f"component {number}" for number in range(1, 9))
_Given = TypeVar("_Given")


def without_gap(components: Mapping[str, _Given | None]) -> list[_Given]:
    """The components in the order of their numbers, which their tokens have too.

    Raises:
        InputError: one is missing before another.
    """
    found = [components.get(name) for name in COMPONENTS]
    given = [component for component in found if component is not None]
    if None in found[: len(given)]:
        missing = COMPONENTS[found.index(None)]
        raise InputError(
            "components", f"{missing} is not connected but a later one is; connect them without a gap, from 1 on"
        )
    return given


def require_masks(references: Iterable[Reference | WithoutMasks]) -> list[Reference]:
    """References of which each has its masks.

    Raises:
        RuntimeError: one has none; says what to do.
    """
    found = []
    for reference in references:
        if isinstance(reference, WithoutMasks):
            raise RuntimeError(reference.complaint)
        found.append(reference)
    return found
