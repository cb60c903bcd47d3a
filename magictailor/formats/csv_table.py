"""Tables of rows that need not have the same columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table, in the order in which rows name them."""
    return list(dict.fromkeys(name for row in rows for name in row))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line of names; numbers have six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    return text.getvalue()
