"""The new tokens: their names, and where they stand in prompts."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from .errors import InputError

TOKEN = re.compile(r"<v(\d+)>")
PROMPT = "A photo of"
# as people write them by mistake, also with the wide brackets of East Asian keyboards
_LIKE_TOKEN = re.compile(r"[<\uff1c]\s*v\s*\d+\s*[>\uff1e]", re.IGNORECASE)


def token_name(number: int) -> str:
    """`<v0>` is the concept, `<v1>` the first component, and so on."""
    return f"<v{number}>"


def require_tokens(text: str, names: Sequence[str], field: str = "prompt") -> None:
    """Refuse a text with what looks like a token's name and is none, such as `<V0>`: it would be read as ordinary text.

    Args:
        names: of the tokens there are.
        field: what the text was given as.

    Raises:
        InputError: names `field`.
    """
    strange = sorted({match.group() for match in _LIKE_TOKEN.finditer(text)} - set(names))
    if strange:
        raise InputError(
            field, f"holds {', '.join(strange)}, but what is learned is {', '.join(names)}, written exactly like that"
        )


def split_at_tokens(text: str, names: Sequence[str]) -> list[str]:
    """Cut a text so that every known token name stands alone; joining the pieces gives the text back."""
    if not names:
        return [text]
    pattern = "|".join(re.escape(name) for name in names)
    return [piece for piece in re.split(f"({pattern})", text) if piece]


def positions_of(pieces: Sequence[Hashable], prompt: Sequence[Hashable]) -> list[int]:
    """Positions in a prompt that belong to any occurrence of some pieces that follow each other, in order."""
    length = len(pieces)
    starts = [n for n in range(len(prompt) - length + 1) if length and list(prompt[n : n + length]) == list(pieces)]
    return sorted({start + n for start in starts for n in range(length)})
