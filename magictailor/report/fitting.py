"""Words that have to fit into a picture."""

from __future__ import annotations

from PIL import ImageFont


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """A text, without as much of its middle as keeps it from fitting into a width in pixels."""
    if font.getlength(text) <= width:
        return text
    # of a text of n letters, so many stay
    shortest, longest = 0, len(text)
    while shortest + 1 < longest:
        kept = (shortest + longest) // 2
        if font.getlength(_without_middle(text, kept)) <= width:
            shortest = kept
        else:
            longest = kept
    return _without_middle(text, shortest)


def _without_middle(text: str, kept: int) -> str:
    # the end of a label tells more than its beginning: there stand numbers
    begin = kept // 2
    return f"{text[:begin]}...{text[len(text) - (kept - begin) :]}"
