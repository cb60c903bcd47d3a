"""Lists that nodes are handed, and lists of numbers that people write into one widget."""

import re
from collections.abc import Sequence
from typing import TypeVar

from ...magictailor.errors import InputError

_Value = TypeVar("_Value")


def only(field: str, values: Sequence[_Value]) -> _Value:
    """The one value of an input of a node that is handed lists.

    Args:
        field: the input's name.

    Raises:
        InputError: there are others, which would be ignored.
    """
    first = values[0]
    if not all(value is first or (isinstance(value, str | int | float) and value == first) for value in values[1:]):
        raise InputError(field, f"is a list of {len(values)}, and there can be only one")
    return first


def for_each(field: str, values: Sequence[_Value], count: int) -> list[_Value]:
    """The values of an input that can be one for all pictures, or a list with one for each.

    Args:
        field: the input's name.
        count: of the pictures.

    Raises:
        InputError: there are as many as neither.
    """
    if len(values) == count:
        return list(values)
    if len(values) > 1:
        raise InputError(field, f"is a list of {len(values)} for {count} pictures; give one, or one for each picture")
    return [values[0]] * count


def numbers(field: str, text: str, kind: type, ends: tuple) -> list:
    """The numbers of a list with commas.

    Args:
        field: the widget's name.
        kind: int or float.
        ends: the smallest and the largest that are allowed.

    Raises:
        InputError: one is none, or out of bounds.
    """
    low, high = ends
    found = []
    for part in filter(None, re.split(r"[,，;\s]+", text)):
        try:
            value = kind(part)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            whole = "a whole number" if kind is int else "a number"
            raise InputError(field, f"holds {part!r}, which is not {whole} from {low} to {high}")
        found.append(value)
    return found


def different_numbers(field: str, text: str, kind: type, ends: tuple) -> list:
    """The numbers of a list of which none may be missing or there twice; see `numbers`.

    Raises:
        InputError: one is none, out of bounds or there twice, or there are none.
    """
    found = numbers(field, text, kind, ends)
    if not found or len(set(found)) < len(found):
        raise InputError(field, f"is {text!r}; give one or more different numbers with commas between them")
    return found
