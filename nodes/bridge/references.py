"""References as nodes are given them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ...magictailor.errors import InputError
from ...magictailor.reference import Reference
from ...magictailor.tailoring import Tailoring
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


def compared_with(
    concept: Reference | WithoutMasks | None,
    components: Mapping[str, Reference | WithoutMasks | None],
    tailorings: Sequence[Tailoring],
) -> list[Reference]:
    """What drawn pictures are compared with: the given references or, without any, the small ones of tailorings.

    Raises:
        InputError: components are given without a concept, or the tailorings were learned from different pictures
            or carry none; names "concept". They are damaged; names "tailoring".
        RuntimeError: a reference has no masks.
    """
    given: list[Reference | WithoutMasks] = without_gap(components)
    if concept is not None:
        return require_masks([concept, *given])
    if given or not tailorings:
        raise InputError("concept", "is not connected; connect all references, or none and a tailoring that has them")
    if len({tailoring.pictures for tailoring in tailorings}) > 1:
        raise InputError(
            "concept",
            "is not connected, and the tailorings were not all learned from the same pictures, or do not all carry "
            "them; connect what to compare with",
        )
    if not tailorings[0].pictures:
        raise InputError(
            "concept",
            "is not connected, and the tailoring carries no pictures of what it was learned from; connect the "
            "references, or take a tailoring that was saved with reference_pictures",
        )
    return tailorings[0].references()
