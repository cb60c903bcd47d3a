"""Trainings in the real server that are ended from outside, again and again until one gets through."""

from __future__ import annotations

import pathlib
import random
import shutil
import signal
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator

from tools.comfyui import ComfyServer, locate_comfyui

from .table import Endings, Row
from .town import TRAIN, asked, broken_files, runs_of, steps_of, temporary_files, town, training

STEPS = (6, 9)
WAYS = {
    "server, kill -9": lambda server: server.kill(),
    "server, SIGTERM": lambda server: server.ask_to_end(signal.SIGTERM),
    "server, Ctrl-C": lambda server: server.ask_to_end(signal.SIGINT),
}


def killed(folder: pathlib.Path, times: int, fewer: int, moments: random.Random) -> Iterator[Row]:
    """kill -9 so often; SIGTERM and Ctrl-C, which are waited for, fewer times."""
    expected = _uncut(folder / "uncut")
    for name, way in WAYS.items():
        base = town(folder / name)
        counts, wanted = Endings(), times if way is WAYS["server, kill -9"] else fewer
        while counts.times < wanted or not counts.through:
            before = steps_of(base)
            with ComfyServer(locate_comfyui(), base) as server:
                asked(server, "/magictailor_state_every_step")
                end = _once(way, server, base, before, moments) if counts.times < wanted else None
                cut = _run(server, end)
                if cut:
                    server.ended()
                    counts.times += 1
            _count(counts, base, before, expected)
        yield counts.row(name)


def cancelled(folder: pathlib.Path, times: int, moments: random.Random) -> Iterator[Row]:
    """Cancel, as the button does it."""
    expected = _uncut(folder / "uncut")
    base, counts = town(folder / "cancelled"), Endings()
    with ComfyServer(locate_comfyui(), base) as server:
        asked(server, "/magictailor_state_every_step")
        while counts.times < times or not counts.through:
            before = steps_of(base)
            wanted = before + moments.randint(1, 3)
            server.free()  # else the host remembers a run that got through, and runs nothing
            counts.times += _run(server, at_step(wanted, server.interrupt) if counts.times < times else None)
            _count(counts, base, before, expected)
    yield counts.row("server, Cancel (/interrupt)")


def _uncut(folder: pathlib.Path) -> bytes:
    base = town(folder)
    with ComfyServer(locate_comfyui(), base) as server:
        server.run(training(STEPS))
    return _state(base)


def _state(base: pathlib.Path) -> bytes:
    (run,) = runs_of(base)
    return run.state.read_bytes()


def _run(server: ComfyServer, on_progress: Callable | None) -> bool:
    """Run the training; whether it was ended before its graph was through."""
    try:
        server.run(training(STEPS), on_progress=on_progress)
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        if on_progress is None:
            raise
        if "interrupt" not in str(error):
            server.ended()  # a killed one closes its connections before it is gone; TimeoutError: another fault
        return True
    return False


def _once(way: Callable, server: ComfyServer, base: pathlib.Path, before: int, moments: random.Random) -> Callable:
    """A callback for progress that ends the server some time after the first new step is on disk."""

    def end() -> None:
        time.sleep(moments.uniform(0.0, 1.0))
        way(server)

    return at_step(max(before, 0) + 1, end)


def at_step(wanted: int, do: Callable[[], None]) -> Callable[[str, int, int], None]:
    """A callback for progress that does something once, when a step has been made."""
    reached = threading.Event()

    def watch(node: str, step: int, total: int) -> None:
        if node == TRAIN and total and step >= wanted and not reached.is_set():
            reached.set()
            threading.Thread(target=do, daemon=True).start()

    return watch


def _count(counts: Endings, base: pathlib.Path, before: int, expected: bytes) -> None:
    counts.in_a_write += temporary_files(base) > 0
    counts.broken += broken_files(base)
    counts.lost += steps_of(base) < before
    if steps_of(base) == sum(STEPS) and (base / "models" / "loras" / "kept.safetensors").is_file():
        counts.through += 1
        counts.same += _state(base) == expected
        for kept in ("output/magictailor", "output/loras", "models/loras", "models/embeddings"):
            shutil.rmtree(base / kept, ignore_errors=True)
