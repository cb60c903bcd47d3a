"""Small files that claim to be huge, and how much memory reading them takes (Linux)."""

from __future__ import annotations

import json
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import torch

from benchmarks.measuring import process_status
from magictailor.errors import InputError
from magictailor.formats.picture_file import read_picture
from magictailor.formats.released_program import LORA_FILE, TABLE_FILE, TOKENIZER_FOLDER
from magictailor.formats.run_state import RECORD as STATE_RECORD
from magictailor.formats.run_state import read_record
from magictailor.formats.tailoring_file import RECORD, load_tailoring

from .fuzz import released_lora, with_header
from .table import Row

DEPTH = 100_000
NESTED = "[" * DEPTH + "]" * DEPTH
GIF = b"GIF89a" + b"\xff" * 4 + b"\0\0\0," + b"\0" * 4 + b"\xff" * 40
MOST = 200  # MB that reading one may take


def huge(folder: pathlib.Path) -> Iterator[Row]:
    """Every kind."""
    for name, (write, read) in _cases().items():
        place = folder / "huge"
        place.mkdir(parents=True, exist_ok=True)
        path = write(place)
        taken, said = _memory_of(lambda path=path, read=read: read(path))
        yield Row(f"claims to be huge, {name}", 1, f"{taken:.0f} MB to read it; {said}", taken < MOST and bool(said))
        for left in sorted(place.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()


def _memory_of(read: Callable[[], object]) -> tuple[float, str]:
    """MB at the highest, beyond what was held before; and what was said, "" if it was read or broke otherwise."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before, said = process_status("VmRSS"), ""
    try:
        read()
    except InputError as error:
        said = str(error)[:70]
    return (process_status("VmHWM") - before) / 1e6, said


def _cases() -> dict[str, tuple[Callable, Callable]]:
    deep = json.dumps({"__metadata__": {RECORD: NESTED}}).encode()
    deep_state = json.dumps({"__metadata__": {STATE_RECORD: NESTED}}).encode()
    terabyte = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    return {
        "a header of 1 TB": (_file((2**40).to_bytes(8, "little") + b"{}"), load_tailoring),
        "a tensor of 1 TB": (_file(with_header(terabyte)), load_tailoring),
        "the same as a run": (_file(with_header(terabyte)), read_record),
        "a record 100,000 deep": (_file(with_header(deep)), load_tailoring),
        "a run's record 100,000 deep": (_file(with_header(deep_state)), read_record),
        "a header 100,000 deep": (_file(with_header(b'{"x":' + NESTED.encode() + b"}")), load_tailoring),
        "a tokenizer 100,000 deep": (_released(torch.zeros(1, 768).expand(49410, 768), NESTED), load_tailoring),
        "words in 10^12 rows": (_released(torch.zeros(1, 1).expand(10**12, 768)), load_tailoring),
        "words 10^12 wide": (_released(torch.zeros(1, 1).expand(49410, 10**12)), load_tailoring),
        "words packed to a thousandth": (_packed, load_tailoring),
        "a PNG of 1 Gpixel": (_file(_png(32768, 32768), "x.png"), read_picture),
        "a GIF of 4 Gpixel": (_file(GIF, "x.gif"), read_picture),
        "a BMP of 1 Gpixel": (_file(_bmp(32768, 32768), "x.bmp"), read_picture),
        "a TIFF of 1 Gpixel": (_file(_tiff(32768, 32768), "x.tif"), read_picture),
    }


def _file(contents: bytes, name: str = "x.safetensors") -> Callable[[pathlib.Path], pathlib.Path]:
    def write(place: pathlib.Path) -> pathlib.Path:
        (place / name).write_bytes(contents)
        return place / name

    return write


def _released(table: torch.Tensor, tokenizer: str = "{}") -> Callable[[pathlib.Path], pathlib.Path]:
    def write(place: pathlib.Path) -> pathlib.Path:
        (place / LORA_FILE).write_bytes(released_lora(place))
        torch.save({"weight": table}, place / TABLE_FILE)
        (place / TOKENIZER_FOLDER).mkdir()
        (place / TOKENIZER_FOLDER / "added_tokens.json").write_text(tokenizer)
        return place

    return write


def _packed(place: pathlib.Path) -> pathlib.Path:
    """A table of 600 MB in a file of 0.6 MB."""
    _released(torch.zeros(1, 768).expand(49410, 768))(place)
    source, packed = place / TABLE_FILE, place / "packed"
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
        for entry in read.infolist():
            with written.open(entry.filename, "w") as file:
                is_data = "/data/" in entry.filename
                for piece in [bytes(10**6)] * 600 if is_data else [read.read(entry)]:
                    file.write(piece)
    packed.replace(source)
    return place


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100)


def _tiff(width: int, height: int) -> bytes:
    entries = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: width * height % 2**32,
    }
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)
