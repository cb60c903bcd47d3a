"""What the tests of batches share."""

import re

from toytown.looks import COLOURS, Look
from toytown.pairs import Pair, write_folder

KINDS = ("house", "tower", "person", "cup", "lamp", "car", "bottle", "cat")


def toy_pairs(root, numbers):
    """A folder of toy town pairs, each a thing with its own part."""
    for n in numbers:
        kind = KINDS[n % len(KINDS)]
        write_folder(Pair(kind, kind, Look(COLOURS["red"]), Look(COLOURS["teal"]), seed=n), root)
    return root


def contents(folder, *left_out):
    """Bytes of all files by their path; of tailorings without the date, of results without the seconds they took."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("lock", *left_out):
            data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"", path.read_bytes())
            found[path.relative_to(folder)] = re.sub(rb'"seconds": [\d.]+', b"", data)
    return found
