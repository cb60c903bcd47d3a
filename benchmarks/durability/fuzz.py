"""Nonsense handed to everything that reads files or names, made by hypothesis from whole ones and from nothing.

Whatever is read, what is said must be an `InputError`, and nothing may be written.
"""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image
from safetensors.torch import save_file

from magictailor.backbones.stable_diffusion import SD1
from magictailor.config import TailorConfig, defaults, knobs
from magictailor.errors import InputError
from magictailor.formats.file_name import checked_name, prompt_name
from magictailor.formats.pair_folder import files_of_pair, load_pair, pair_folders
from magictailor.formats.picture_file import read_mask, read_picture
from magictailor.formats.released_program import LORA_FILE, TABLE_FILE, TOKENIZER_FOLDER, VOCABULARY
from magictailor.formats.run_state import RECORD as STATE_RECORD
from magictailor.formats.run_state import RunRecord, write_state
from magictailor.formats.small_references import SmallReference, small_references
from magictailor.formats.tailoring_file import RECORD, load_tailoring, save_tailoring
from magictailor.reference import Reference
from magictailor.runs import Run, Runs
from magictailor.tailoring import Tailoring, Token
from magictailor.tokens import require_tokens
from magictailor.training import StepReport

from .table import Row

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
NEAR = 15  # inputs near each that hypothesis draws, which takes longer than to read them

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
paths = st.sampled_from(
    ["/etc/passwd", "../../outside", "C:\\outside", "\\\\server\\share", "a/../../b", "~/x", "\0", "con", "."]
)
texts = st.text(max_size=40) | paths | st.text(alphabet="<>v0123 ().:{}|\\/$%", max_size=30)


@dataclass(frozen=True)
class Target:
    """What is handed in, and what reads it.

    Attributes:
        share: of all inputs.
        drawn: a strategy.
        altered: another input near one that was drawn.
        read: called with an input in a folder that it may fill before; raises what it finds.
    """

    name: str
    share: float
    drawn: st.SearchStrategy
    altered: Callable[[Any, random.Random], Any]
    read: Callable[[Any, pathlib.Path], None]


def fuzzed(folder: pathlib.Path, inputs: int, number: int = 0) -> Iterator[Row]:
    """All targets, with their shares of so many inputs."""
    for target in targets(folder):
        yield fuzz(target, max(1, round(inputs * target.share)), folder, number)


def fuzz(target: Target, inputs: int, folder: pathlib.Path, number: int) -> Row:
    """Hand in so many inputs; what was not refused in words, and the first of it."""
    place = folder / "place"
    set_hypothesis_home_dir(folder / ".hypothesis")
    faults: list[str] = []
    tried = 0

    @seed(number)
    @settings(
        max_examples=-(-inputs // (1 + NEAR)), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.drawn, st.integers(0, 2**32))
    def hand_in(drawn: Any, number: int) -> None:
        nonlocal tried
        numbers = random.Random(number)
        for value in (drawn, *(target.altered(drawn, numbers) for _ in range(NEAR))):
            tried += 1
            try:
                target.read(value, place)
            except InputError:
                pass
            except BaseException as error:  # also what a library may raise beside exceptions
                faults.append(f"{type(error).__name__}: {error} for {value!r}"[:600])

    place.mkdir()
    with _watched(place, faults):
        hand_in()
    shutil.rmtree(place)
    found = f"{len(faults)} tracebacks or writes elsewhere" + (f"; {faults[0]}" if faults else "")
    return Row(f"fuzz, {target.name}", tried, found, not faults and tried >= 0.9 * inputs)


_watchers: list[Callable[[str, tuple], None]] = []


@contextmanager
def _watched(place: pathlib.Path, faults: list[str]) -> Iterator[None]:
    """Notes every file that is opened for writing, made, renamed or removed outside a folder."""
    writing = {
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "shutil.rmtree",
    }

    def watch(event: str, arguments: tuple) -> None:
        opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if not (opened or event in writing) or not isinstance(arguments[0], str | bytes | pathlib.Path):
            return
        path = pathlib.Path(str(arguments[0]))
        # what Python and hypothesis keep for themselves
        own = {"__pycache__", ".hypothesis"} & set(path.parts)
        if path.is_absolute() and place not in path.parents and path != place and not own:
            faults.append(f"{event} {arguments[0]}")

    if not _watchers:
        sys.addaudithook(lambda event, arguments: [watcher(event, arguments) for watcher in _watchers] and None)
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def targets(folder: pathlib.Path) -> list[Target]:
    """Of the library; whole files to begin with are made in the folder."""
    tailoring = _bytes_of(folder, lambda path: save_tailoring(_tailoring(), path, reference_pictures=True))
    state = _bytes_of(folder, lambda path: write_state(path, _record(), _state()))
    lora = released_lora(folder)
    table = BytesIO()
    torch.save({"weight": torch.zeros(1, 768).expand(VOCABULARY + 2, 768)}, table)
    released = st.tuples(
        st.just(lora),
        st.just(table.getvalue()),
        json_values | st.dictionaries(st.text(max_size=5), st.integers(VOCABULARY - 2, VOCABULARY + 3), max_size=3),
        st.sampled_from(["added_tokens.json", "tokenizer.json", "tokenizer_config.json"]),
    )
    record = st.just(tailoring) | _other_records(tailoring, RECORD) | made_up_tensors()
    return [
        Target("tailoring files", 0.3, record, damaged, _read_tailoring),
        Target("runs on disk", 0.2, st.just(state) | _other_records(state, STATE_RECORD), damaged, _read_run),
        Target("released folders", 0.1, released, _other_released, _read_released),
        Target("pair folders", 0.1, _pair_folders(), _other_pair, _read_pair),
        Target("pictures and masks", 0.15, st.sampled_from(_pictures()), _other_picture, _read_pictures),
        Target("settings, names and prompts", 0.15, _values(), _other_values, _read_values),
    ]


def damaged(original: bytes, numbers: random.Random) -> bytes:
    """The same bytes with some turned, cut out or put in; more often where files describe themselves."""
    contents = bytearray(original)
    for _ in range(numbers.choice((1, 1, 2, 4, 16))):
        if not contents:
            break
        place = numbers.randrange(min(len(contents), numbers.choice((16, 400, len(contents)))))
        kind = numbers.randrange(5)
        if kind == 0:
            contents[place] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            del contents[place : place + numbers.randrange(1, 200)]
        elif kind == 2:
            contents[place:place] = numbers.randbytes(numbers.randrange(1, 50))
        elif kind == 3:
            contents[place : place + 8] = numbers.choice((b"\0" * 8, b"\xff" * 8, b"[[[[[[[[", b"99999999", b'"<v9>"'))
        else:
            del contents[max(1, place) :]
    return bytes(contents)


def _other_released(made: tuple, numbers: random.Random) -> tuple:
    changed, part = list(made), numbers.randrange(2)
    changed[part] = damaged(changed[part], numbers)
    return tuple(changed)


def _other_pair(made: tuple, numbers: random.Random) -> tuple:
    name, files = made
    where = numbers.randrange(len(name) + 1)
    files = [(*file[:3], damaged(file[3], numbers)) if file[3] else file for file in files]
    return name[:where] + numbers.choice("+_ .ab\u0301\n") + name[where:], files


def _other_picture(made: tuple, numbers: random.Random) -> tuple:
    return made[0], damaged(made[1], numbers)


def _other_values(made: tuple, numbers: random.Random) -> tuple:
    config, text = made
    where = numbers.randrange(len(text) + 1)
    put_in = numbers.choice(["<v0>", "<V1>", "..", "/", "\\", "\0", "$", "{", "x" * 300, "\ud800", "\u202e", "é", " "])
    values = (0, -1, 1.5, 10**400, float("nan"), float("inf"), None, "no", [], True)
    name = numbers.choice(sorted(knobs()))
    return config | {name: numbers.choice(values)}, text[:where] + put_in + text[where:]


def with_header(header: bytes, tensors: bytes = b"") -> bytes:
    """A safetensors file of a header and what follows it."""
    return len(header).to_bytes(8, "little") + header + tensors


def _split(contents: bytes) -> tuple[dict, bytes]:
    length = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:length]), contents[length:]


def _other_records(contents: bytes, key: str) -> st.SearchStrategy[bytes]:
    """A file whose record has other values somewhere."""
    header, tensors = _split(contents)
    record = json.loads(header["__metadata__"][key])
    places = list(_places(record))

    def apply(changes: list) -> bytes:
        changed = json.loads(json.dumps(record))
        for place, value in changes:
            _put(changed, place, value)
        metadata = header["__metadata__"] | {key: json.dumps(changed)}
        return with_header(json.dumps(header | {"__metadata__": metadata}).encode(), tensors)

    numbers = st.integers(-2, 10) | st.floats() | st.just(10**400) | st.just("<v0>")
    change = st.tuples(st.sampled_from(places), json_values | numbers)
    return st.lists(change, min_size=1, max_size=3).map(apply)


def _places(value: object, before: tuple = ()) -> Iterator[tuple]:
    if before:
        yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from _places(below, (*before, key))


def _put(record: object, place: tuple, value: object) -> None:
    for key in place[:-1]:
        if not isinstance(record, dict | list) or (isinstance(record, dict) and key not in record):
            return  # an earlier change took it away
        if isinstance(record, list) and not (isinstance(key, int) and key < len(record)):
            return
        record = record[key]
    if isinstance(record, dict) or (
        isinstance(record, list) and isinstance(place[-1], int) and place[-1] < len(record)
    ):
        record[place[-1]] = value


def made_up_tensors() -> st.SearchStrategy[bytes]:
    """Files of the right names with any types, shapes and places."""
    endings = [".lora_down.weight", ".lora_up.weight", ".alpha"]
    names = st.sampled_from(
        [*(LAYER + ending for ending in endings), "bundle_emb.<v0>.clip_l", "bundle_emb.<v1>.clip_l"]
    )
    sizes = st.integers(0, 5) | st.sampled_from([768, 2**31, 2**62])
    tensor = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "C64", "X"]),
            "shape": st.lists(sizes, max_size=4),
            "data_offsets": st.tuples(st.integers(0, 64), st.integers(0, 10**13)),
        }
    )
    whole = st.tuples(
        st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "U8"]), st.lists(st.integers(0, 4), max_size=4)
    )

    def packed(parts: dict) -> bytes:
        """With places that fit, so that it can be read."""
        width = {"F32": 4, "F16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1, "U8": 1}
        header, end = {"__metadata__": {RECORD: json.dumps(_tailoring_record())}}, 0
        for name, (kind, shape) in parts.items():
            size = width[kind]
            for side in shape:
                size *= side
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        return with_header(json.dumps(header).encode(), bytes(end))

    record = st.just({RECORD: json.dumps(_tailoring_record())})
    header = st.tuples(st.dictionaries(names, tensor, max_size=5), record).map(
        lambda made: with_header(json.dumps(made[0] | {"__metadata__": made[1]}).encode(), bytes(64))
    )
    return header | st.dictionaries(names, whole, max_size=5).map(packed)


def _pair_folders() -> st.SearchStrategy[tuple]:
    name = st.text(alphabet="ab_+ .é漢\u200b\u202e'\"$%", min_size=1, max_size=12)
    file = st.tuples(
        st.sampled_from(["0_a", "1_a", "0_", "1_b", "2_x", "masks", ".DS_Store", "0_é"]),
        st.sampled_from([".png", ".PNG", ".jpg", ".txt", "", ".gif", ".tif", ".heic"]),
        st.booleans(),  # in masks
        st.sampled_from([b"", b"x", _pictures()[0][1], _pictures()[1][1]]),
    )
    return st.tuples(st.one_of(name, st.just("tower_a+roof_a")), st.lists(file, max_size=5))


def _values() -> st.SearchStrategy[tuple]:
    known = [*defaults(), "unknown"]
    numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 64, 512, 10**9, 10**400, float("nan"), "no", "fp16"])
    config = st.dictionaries(st.sampled_from(known), json_values | numbers, max_size=4)
    return st.tuples(config, texts)


def _tailoring() -> Tailoring:
    lora = {f"{LAYER}.lora_down.weight": torch.ones(2, 4), f"{LAYER}.lora_up.weight": torch.ones(4, 2)}
    tokens = tuple(Token(f"<v{n}>", word, {"clip_l": torch.ones(8)}) for n, word in enumerate(("tower", "roof")))
    return Tailoring("sd1", lora | {f"{LAYER}.alpha": torch.tensor(2.0)}, tokens, _config(), 2, pictures=_small())


def _tailoring_record() -> dict:
    tokens = [{"name": f"<v{n}>", "class_word": word} for n, word in enumerate(("tower", "roof"))]
    return {"version": 1, "family": "sd1", "tokens": tokens, "config": None, "steps_done": None}


def _config() -> TailorConfig:
    return replace(TailorConfig(), phase1_train_steps=1, phase2_train_steps=3, lora_rank=2)


def _record() -> RunRecord:
    return RunRecord(SD1.name, ("tower", "roof"), _config(), {"model": "ab", "pictures": "cd"}, 2, pictures=_small())


def _small() -> tuple[SmallReference, ...]:
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    return small_references([Reference(word, (torch.full((3, 32, 32), 0.5),), (mask,)) for word in ("tower", "roof")])


def _state() -> dict:
    report = StepReport(1, 4, "warm-up", 1e-4, 0.5, 0.1, (0.1, 0.2), 0.0, 0.01)
    lora = {"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.ones(4, 2)}
    moments = {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(2, 4), "exp_avg_sq": torch.ones(2, 4)}}
    return {
        "history": [report, replace(report, step=2, phase="DS-Bal")],
        "lora": lora,
        "tokens": {"clip_l": torch.ones(2, 8)},
        "momentum": {name: rows.clone() for name, rows in lora.items()},
        "optimizer": moments,
        "scaler": {},
    }


def released_lora(folder: pathlib.Path) -> bytes:
    """A LoRA of one layer as the released program writes it; the folder is left as it was."""
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    layer = {f"{stem}.down.weight": torch.ones(2, 4), f"{stem}.up.weight": torch.ones(4, 2)}
    return _bytes_of(folder, lambda path: save_file(layer, path))


def _pictures() -> list[tuple[str, bytes]]:
    """Small whole pictures of many kinds, always the same."""
    numbers = random.Random(0)
    colours = Image.frombytes("RGB", (24, 20), numbers.randbytes(24 * 20 * 3))
    made = []
    for suffix, kind, mode in (
        (".png", "PNG", "RGB"), (".jpg", "JPEG", "RGB"), (".png", "PNG", "RGBA"), (".png", "PNG", "P"),
        (".png", "PNG", "I;16"), (".webp", "WEBP", "RGB"), (".tif", "TIFF", "RGB"), (".tif", "TIFF", "F"),
        (".gif", "GIF", "P"), (".bmp", "BMP", "RGB"), (".jpg", "JPEG", "CMYK"), (".png", "PNG", "1"),
    ):  # fmt: skip
        picture = colours.convert("L").convert(mode) if mode in ("I;16", "F") else colours.convert(mode)
        contents = BytesIO()
        picture.save(contents, kind)
        made.append((suffix, contents.getvalue()))
    return made


def _bytes_of(folder: pathlib.Path, write: Callable[[pathlib.Path], None]) -> bytes:
    path = folder / "whole.safetensors"
    write(path)
    contents = path.read_bytes()
    path.unlink()
    return contents


def _read_tailoring(contents: bytes, place: pathlib.Path) -> None:
    path = place / "x.safetensors"
    path.write_bytes(contents)
    loaded = load_tailoring(path)
    _ = loaded.pictures and loaded.references()


def _read_run(contents: bytes, place: pathlib.Path) -> None:
    folder = place / "runs" / "x"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state_000002.safetensors").write_bytes(contents)
    (folder / "report.png").write_bytes(contents[:64])
    run = Run(folder)
    _ = run.picture(), Runs(folder.parent).all(), run.snapshots
    run.result()


def _read_released(made: tuple, place: pathlib.Path) -> None:
    lora, table, tokenizer, name = made
    (place / LORA_FILE).write_bytes(lora)
    (place / TABLE_FILE).write_bytes(table)
    folder = place / TOKENIZER_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_text(json.dumps(tokenizer), encoding="utf-8")
    load_tailoring(place)


def _read_pair(made: tuple, place: pathlib.Path) -> None:
    name, files = made
    root = place / "pairs"
    shutil.rmtree(root, ignore_errors=True)
    folder = root / (name if name.strip(".") else f"{name}+")
    (folder / "masks").mkdir(parents=True)
    for stem, ending, in_masks, contents in files:
        path = (folder / "masks" if in_masks else folder) / (stem + ending)
        if not path.is_dir():
            path.write_bytes(contents)
    _ = list(pair_folders(root))
    for read in (files_of_pair, load_pair):
        try:
            read(folder)
        except InputError:
            pass


def _read_pictures(made: tuple, place: pathlib.Path) -> None:
    suffix, contents = made
    path = place / f"x{suffix}"
    path.write_bytes(contents)
    try:
        read_picture(path)
    except InputError:
        pass
    whole = place / "whole.png"
    if not whole.exists():
        whole.write_bytes(_pictures()[0][1])
    read_mask(path, read_picture(whole))


def _read_values(made: tuple, place: pathlib.Path) -> None:
    config, text = made
    for read in (
        lambda: TailorConfig(**{name: value for name, value in config.items() if name in knobs()}),
        lambda: prompt_name(checked_name(text)),
        lambda: require_tokens(text, ["<v0>", "<v1>"], "prompt"),
    ):
        try:
            read()
        except InputError:
            pass
