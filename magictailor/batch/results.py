"""What a batch shows of its results: a table, a contact sheet, and a page to look through."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from ..formats.csv_table import as_csv, columns_of
from ..formats.new_file import replaced_file
from ..formats.picture_file import read_picture
from ..report.grid import labelled_grid
from .jobs import Job, Outcome, Row
from .storage import Storage

TABLE, SHEET, PAGE = "results.csv", "contact_sheet.jpg", "results.html"
LINKS = ("picture", "tailoring")
MOST_COLUMNS, MOST_ROWS = 12, 60  # of a contact sheet


def write_results(folder: Path | Storage, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Write table, contact sheet and page of all jobs that have a result, in place of those of an earlier call.

    Args:
        folder: of all jobs; rows name pictures and tailorings relative to it.

    Returns:
        paths or addresses of the files.
    """
    if isinstance(folder, Path):
        return [str(path) for path in _written(folder, jobs, outcomes)]
    with TemporaryDirectory(prefix="magictailor_") as place:
        pictures = [row["picture"] for rows in _shown(jobs, outcomes) for row in rows if "picture" in row]
        folder.fetch(pictures, Path(place))
        names = [path.name for path in _written(Path(place), jobs, outcomes)]
        folder.store(Path(place), names)
    return [f"{folder.url.rstrip('/')}/{name}" for name in names]


def _written(folder: Path, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> list[Path]:
    rows = [row for job in jobs for row in outcomes[job.name].rows]
    failures = {job.name: outcomes[job.name].failure for job in jobs if outcomes[job.name].failure}
    written = [_replaced(folder / TABLE, as_csv(rows).encode())]
    if any("picture" in row for row in rows):
        buffer = io.BytesIO()
        _contact_sheet(folder, jobs, outcomes).save(buffer, "JPEG", quality=90)
        written.append(_replaced(folder / SHEET, buffer.getvalue()))
    written.append(_replaced(folder / PAGE, as_page(rows, failures).encode()))
    return written


def _contact_sheet(folder: Path, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> Image.Image:
    shown = _shown(jobs, outcomes)
    width = max(map(len, shown))
    pictures = [
        [read_picture(folder / row["picture"]).image for row in rows] + [None] * (width - len(rows)) for rows in shown
    ]
    labels = [_label(rows[0]) for rows in shown]
    heads = [f"{row.get('prompt', '')} #{row.get('noise seed', '')}" for row in shown[0]]
    return labelled_grid(pictures, labels, heads + [""] * (width - len(heads)), tile=160)


def _shown(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> list[tuple[Row, ...]]:
    """Of each job on the contact sheet, what is shown of it."""
    return [outcomes[job.name].rows[:MOST_COLUMNS] for job in jobs if outcomes[job.name].rows][:MOST_ROWS]


def _label(row: Row) -> str:
    """Pair and settings of a row: what comes before the files it names."""
    names = list(row)
    before = names[: names.index("tailoring")] if "tailoring" in names else names[:1]
    return ", ".join(str(row[name]) if name == "pair" else f"{name} {row[name]}" for name in before)


def as_page(rows: Sequence[Row], failures: Mapping[str, str]) -> str:
    """One page that opens without a server: every picture with what it is of, sorted by a click on a column."""
    columns = columns_of(rows)
    data = json.dumps({"columns": columns, "rows": rows, "links": LINKS}).replace("<", "\\u003c")
    failed = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(why)}</li>" for name, why in failures.items())
    problems = f"<h2>Without a result</h2><ul>{failed}</ul>" if failed else ""
    return _PAGE.replace("@PROBLEMS@", problems).replace("@COUNT@", str(len(rows))).replace("@DATA@", data)


def _replaced(path: Path, content: bytes) -> Path:
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)
    return path


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MagicTailor batch</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 1.5em; color: #1e2228; background: #fff }
table { border-collapse: collapse } td, th { padding: 4px 10px; border-bottom: 1px solid #ddd; text-align: left }
th { cursor: pointer; position: sticky; top: 0; background: #fff; white-space: nowrap }
th[aria-sort=ascending]::after { content: " \\25B2" } th[aria-sort=descending]::after { content: " \\25BC" }
img { width: 128px; height: 128px; object-fit: contain; image-rendering: pixelated; display: block }
input { font: inherit; padding: 4px 8px; width: 24em; margin-bottom: 1em }
</style></head><body>
<h1>@COUNT@ pictures</h1>@PROBLEMS@
<input id="filter" placeholder="only rows with these words" aria-label="only rows with these words">
<table><thead><tr></tr></thead><tbody></tbody></table>
<script>
const data = @DATA@;
const head = document.querySelector("thead tr"), body = document.querySelector("tbody");
let sorted = null, falling = false;
const shown = value => typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
function draw() {
  const words = document.querySelector("#filter").value.toLowerCase().split(/\\s+/);
  const rows = data.rows.filter(row => words.every(word => JSON.stringify(row).toLowerCase().includes(word)));
  if (sorted !== null) rows.sort((a, b) => {
    const [x, y] = [a[sorted], b[sorted]];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return falling ? -order : order;
  });
  body.replaceChildren(...rows.map(row => {
    const line = document.createElement("tr");
    for (const name of data.columns) {
      const cell = line.insertCell(), value = row[name];
      if (value === undefined) continue;
      if (!data.links.includes(name)) { cell.textContent = shown(value); continue; }
      const link = document.createElement("a");
      link.href = encodeURI(value);
      if (name === "picture") {
        const picture = document.createElement("img");
        picture.src = encodeURI(value); picture.loading = "lazy"; picture.alt = value;
        link.append(picture);
      } else link.textContent = value.split("/").pop();
      cell.append(link);
    }
    return line;
  }));
}
for (const name of data.columns) {
  const cell = document.createElement("th");
  cell.textContent = name;
  cell.onclick = () => {
    falling = sorted === name ? !falling : typeof data.rows.find(row => name in row)?.[name] === "number";
    sorted = name;
    for (const other of head.children) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
    draw();
  };
  head.append(cell);
}
document.querySelector("#filter").oninput = draw;
draw();
</script></body></html>
"""
