"""Errors written for the person at the canvas, not for a programmer."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Args:
        field: the input that has to change, by the name the user sees.
        message: what is wrong, and what to do about it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
