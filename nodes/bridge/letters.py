"""Letters that no font on this machine can draw."""

from . import host


def show_missing(text: str) -> None:
    """Say on the running node which letters of a text are drawn as empty boxes, and what to do."""
    if text.isascii():
        return
    # brings matplotlib, which knows where fonts are
    from ...magictailor.report.fonts import missing_note

    note = missing_note(text)
    if note:
        host.show_text(note)
