"""Lists of numbers that people write into one widget."""

import re

from ...magictailor.errors import InputError


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
