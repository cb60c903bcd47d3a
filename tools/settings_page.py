"""Writes what the documentation says of the hyper-parameters, out of `magictailor.config`.

Run as `python -m tools.settings_page` after a knob has changed; the result is committed. It fills the table of
docs/settings.md, and the meanings on the help pages of the nodes that show them.
"""

from __future__ import annotations

import math
import pathlib
import re

from magictailor.config import Knob, defaults, knobs

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"
HELP_PAGES = tuple(
    ROOT / "web" / "docs" / f"{node}.md" for node in ("MagicTailorTrainV2", "MagicTailorSettings", "MagicTailorTrain")
)
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
# what a help page may add to a meaning: that the value counts in place of another node's
REPLACES = re.compile(r"; in place of Train's \([^)]*\)")


def table() -> str:
    """Every hyper-parameter with its default, range, symbol in the paper and meaning, as a table in Markdown."""
    rows = [
        f"| {name} | {_shown(defaults()[name])} | {_range(knob)} | {knob.symbol} | {knob.help} |"
        for name, knob in knobs().items()
    ]
    return "\n".join(["| name | default | range | symbol | meaning |", "|---|---|---|---|---|", *rows]) + "\n"


def settings_page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def help_page(text: str) -> str:
    """A help page with the meaning of every hyper-parameter in it made anew."""
    for name, knob in knobs().items():

        def row(match: re.Match[str], name: str = name, knob: Knob = knob) -> str:
            replaces = REPLACES.search(match.group())
            meaning = f"{knob.help} ({_notes(name, knob)})" + (replaces.group() if replaces else "")
            return f"| {name} | {meaning} |"

        text = re.sub(rf"^\| {name} \|.*\|$", row, text, flags=re.MULTILINE)
    return text


def _notes(name: str, knob: Knob) -> str:
    return ", ".join(filter(None, (_range(knob), f"default {_shown(defaults()[name])}")))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(knob: Knob) -> str:
    if knob.choices:
        return " / ".join(knob.choices)
    if not math.isfinite(knob.high):
        return ""
    return f"{_end(knob.low)} to {_end(knob.high)} {knob.unit}".strip()


def _end(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def main() -> None:
    """Write the pages."""
    for path, made in ((PAGE, settings_page), *((page, help_page) for page in HELP_PAGES)):
        path.write_text(made(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
