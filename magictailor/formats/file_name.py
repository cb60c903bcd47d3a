"""What the files of a tailoring may be called: on Linux, Windows and macOS, and in a prompt."""

from __future__ import annotations

import re
import unicodedata

from ..errors import InputError

LONGEST = 255  # bytes of a file's name in UTF-8, the shortest limit of the three systems
# what a saved tailoring adds to its name at most
ADDED = "_9999_{token}.safetensors"
ENDING = ".safetensors"

_REFUSED = set('<>:"|?*[]')
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{device}{number}" for device in ("com", "lpt") for number in "123456789¹²³"
}
# control characters, separators, halves of characters and what has no shape, but for the joiners that scripts need
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


def checked_name(name: str, token: str = "v9") -> str:
    """A name for the files of a tailoring: may hold `/` for subfolders, may not lead out of the folder.

    Args:
        name: with or without the ending `.safetensors`.
        token: the longest that a file is called by.

    Returns:
        the same in Unicode's NFC, without the ending.

    Raises:
        InputError: it is empty, absolute, climbs with `..`, is too long, is kept by Windows for itself, ends with a
            period, or holds characters that file names cannot have.
    """
    parts = unicodedata.normalize("NFC", name).strip().replace("\\", "/").removesuffix(ENDING).split("/")
    for number, part in enumerate(parts, 1):
        fault = _fault(part, ADDED.format(token=token) if number == len(parts) else "")
        if fault:
            shown = name if len(name) <= 60 else f"{name[:60]}..."
            raise InputError(
                "name",
                f"{shown!r} cannot be a file name: {fault}; use letters, digits, - and _, and / for a subfolder: "
                "people/anna",
            )
    return "/".join(parts)


def _fault(part: str, added: str) -> str:
    """What is wrong with a name between two `/`; "" for nothing."""
    if not part.strip(". "):
        return "a folder or the name itself is left out"
    if part != part.strip() or part.endswith("."):
        return "it begins or ends with a space, or ends with a period"
    strange = sorted(set(part) & _REFUSED)
    if strange:
        return f"it holds {' '.join(strange)}"
    unseen = [c for c in part if unicodedata.category(c) in _UNSEEN and c not in _JOINERS]
    if unseen:
        return f"it holds a character that cannot be seen, U+{ord(unseen[0]):04X}"
    device = part.partition(".")[0].rstrip()
    if device.lower() in _DEVICES:
        return f"Windows keeps {device} for itself"
    too_long = len(part.encode()) + len(added) - LONGEST
    return f"it is {too_long} bytes too long" if too_long > 0 else ""


def prompt_name(name: str) -> str:
    """A name that a prompt can hold after `embedding:`, made from one that `checked_name` has passed.

    Stock prompts end such a name at a space, and read ( ) as weights and { } as a choice; other programs stumble over
    accents. These become `_` or the bare letter; letters without a bare one stay.
    """
    parts = ("".join(map(_readable, part)) for part in name.split("/"))
    return "/".join(re.sub("_+", "_", part).strip("_") or "tailoring" for part in parts)


def _readable(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character)[0]
    if bare.isascii():
        return bare if bare.isalnum() or bare in "+-." else "_"
    return character if character.isalnum() or unicodedata.category(character).startswith("M") else "_"
