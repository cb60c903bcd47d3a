"""The new tokens: their names, and where they stand in prompts."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from .errors import InputError

PROMPT = "A photo of"
LONGEST_NAME = 40

# <v0>, <sks>, <anna:v0>, or a bare word: sks_tower
_NAME = re.compile(r"<(?:(?P<label>[\w-]+):)?(?P<bracketed>[\w-]+)>|(?P<bare>[\w-]+)")
_NUMBERED = re.compile(r"<(?:[\w-]+:)?v(?P<number>\d{1,3})>")
# what prompts of other programs and packs have in such brackets
_TAGS = {"lora", "lyco", "hypernet", "embedding"}
# as people write and paste <v0> by mistake: wide and other brackets, as web pages and chats escape them, with
# characters that cannot be seen
_OPEN = r"(?:&lt;|[<\uff1c\u2039\u00ab\u3008\u300a\u2329\u27e8])"
_CLOSE = r"(?:&gt;|[>\uff1e\u203a\u00bb\u3009\u300b\u232a\u27e9])"
_BLANK = r"[\s\\\u200b-\u200d\u2060\ufeff]*"
_TAG = rf"{_BLANK}(?:{'|'.join(_TAGS)}):"
_LIKE_TOKEN = re.compile(
    rf"{_OPEN}(?!{_TAG}){_BLANK}(?:[\w-]+{_BLANK}:{_BLANK})?v{_BLANK}\d+{_BLANK}{_CLOSE}"
    # not closed at all
    rf"|<v\d+(?![\w-]*{_BLANK}{_CLOSE})",
    re.IGNORECASE,
)


def token_name(number: int) -> str:
    """`<v0>` is the concept, `<v1>` the first component, and so on."""
    return f"<v{number}>"


def labelled(name: str, label: str) -> str:
    """A token's name with a label that tells it from another tailoring's: `<v0>` and `anna` give `<anna:v0>`.

    Args:
        name: see `checked_names`; a label that it has is replaced.
        label: letters, digits, - and _.
    """
    parts = _NAME.fullmatch(name)
    assert parts is not None
    return f"<{label}:{parts['bracketed'] or parts['bare']}>"


def file_form(name: str) -> str:
    """A token's name as part of a file's name: `<anna:v0>` gives `anna_v0`."""
    return name.strip("<>").replace(":", "_")


def checked_names(names: Sequence[str], field: str = "names") -> tuple[str, ...]:
    """Names that tokens can have in prompts, files and other programs.

    Args:
        names: each a word of letters, digits, - and _, bare or in angle brackets, there with or without a label.
        field: what they were given as.

    Raises:
        InputError: one cannot be a name, or two are the same but for their case or brackets; names `field`.
    """
    for name in names:
        parts = _NAME.fullmatch(name)
        if parts is None or len(name) > LONGEST_NAME or not any(map(str.isalpha, name)):
            raise InputError(
                field,
                f"{name[:60]!r} cannot be a token's name; use letters, digits, - and _, at most {LONGEST_NAME}, one of "
                "them a letter: sks_tower, <sks> or <anna:v0>",
            )
        if (parts["label"] or "").lower() in _TAGS:
            raise InputError(
                field, f"{name!r} cannot be a token's name: other programs read {parts['label']}: as a tag"
            )
    files = [file_form(name).casefold() for name in names]
    if len(set(files)) < len(files):
        raise InputError(field, f"{', '.join(names)} are too much alike; each token needs a name of its own")
    return tuple(names)


def require_tokens(text: str, names: Sequence[str], field: str = "prompt") -> None:
    """Refuse a text with what looks like a token's name and is none, such as `<V0>`: it would be read as ordinary text.

    Args:
        names: of the tokens there are.
        field: what the text was given as.

    Raises:
        InputError: names `field`.
    """
    patterns = [_LIKE_TOKEN, *map(_like, names)]
    strange = sorted({match.group() for pattern in patterns for match in pattern.finditer(text)} - set(names))
    if strange:
        shown = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in ", ".join(strange))
        raise InputError(field, f"holds {shown}, but what is learned is {', '.join(names)}, written exactly like that")


def in_words(text: str, class_words: Sequence[str]) -> str:
    """A prompt for whoever has not learned the tokens: `<v0> with <anna:v1>` gives `tower with roof`.

    Args:
        class_words: the concept's first.

    Raises:
        InputError: it has a token of a higher number; names "prompt".
    """

    def word(match: re.Match[str]) -> str:
        number = int(match["number"])
        if number >= len(class_words):
            raise InputError("prompt", f"holds {match.group()}, but there are only {', '.join(class_words)}")
        return class_words[number]

    return _NUMBERED.sub(word, text)


def _like(name: str) -> re.Pattern[str]:
    """What a person may have meant a name by."""
    if not name.startswith("<"):
        return re.compile(_bounded(name), re.IGNORECASE)
    inside = f"{_BLANK}:{_BLANK}".join(map(re.escape, name[1:-1].split(":")))
    return re.compile(f"{_OPEN}{_BLANK}{inside}{_BLANK}{_CLOSE}", re.IGNORECASE)


def _bounded(name: str) -> str:
    """A pattern for a name: a bare word is not found inside a longer one."""
    return re.escape(name) if name.startswith("<") else rf"(?<![\w-]){re.escape(name)}(?![\w-])"


def split_at_tokens(text: str, names: Sequence[str]) -> list[str]:
    """Cut a text so that every known token name stands alone; joining the pieces gives the text back."""
    if not names:
        return [text]
    pattern = "|".join(map(_bounded, names))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


def positions_of(pieces: Sequence[Hashable], prompt: Sequence[Hashable]) -> list[int]:
    """Positions in a prompt that belong to any occurrence of some pieces that follow each other, in order."""
    length = len(pieces)
    starts = [n for n in range(len(prompt) - length + 1) if length and list(prompt[n : n + length]) == list(pieces)]
    return sorted({start + n for start in starts for n in range(length)})
