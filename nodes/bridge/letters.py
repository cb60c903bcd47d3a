"""Letters that no font on this machine can draw."""


def letter_notes(text: str) -> list[str]:
    """What to say of letters of a text that are drawn as empty boxes, and what to do; nothing if all can be drawn."""
    if text.isascii():
        return []
    # brings matplotlib, which knows where fonts are
    from ...magictailor.report.fonts import missing_note

    note = missing_note(text)
    return [note] if note else []
