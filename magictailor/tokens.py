"""The new tokens: their names, and where they stand in prompts."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

TOKEN = re.compile(r"<v(\d+)>")
PROMPT = "A photo of"


def token_name(number: int) -> str:
    """`<v0>` is the concept, `<v1>` the first component, and so on."""
    return f"<v{number}>"


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
