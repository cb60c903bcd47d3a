"""What the tests of batches share."""

import json
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
    """Bytes of all files by their path, without what tells when they were made, and how long it took.

    Safetensors writes metadata in any order, so that of tailorings is sorted.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("lock", *left_out):
            data = sorted_header(path) if path.name == "tailoring.safetensors" else path.read_bytes()
            found[path.relative_to(folder)] = re.sub(rb'"seconds": [\d.]+', b"", data)
    return found


def sorted_header(path):
    """A safetensors file with its header sorted and without its date."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    del header["__metadata__"]["modelspec.date"]
    return json.dumps(header, sort_keys=True).encode() + data[end:]
