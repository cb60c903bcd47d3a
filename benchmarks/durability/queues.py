"""Trainings that are queued, cancelled and queued again, by two clients, and by a host that keeps no outputs."""

from __future__ import annotations

import pathlib
import signal
import time
import uuid
from collections.abc import Iterator

from tools.comfyui import ComfyServer, locate_comfyui

from .server import at_step
from .table import Row
from .town import runs_of, town, training

STEPS = (2, 3)
CACHES = {"--cache-none": ("--cache-none",), "--cache-lru 1": ("--cache-lru", "1")}


def queues(folder: pathlib.Path) -> Iterator[Row]:
    """Two trainings queued, cancelled, queued again; two clients; then other seeds of the drawing, with each cache."""
    base = town(folder / "queue")
    with ComfyServer(locate_comfyui(), base) as server:
        yield _cancelled_and_queued_again(server, base)
        yield _two_clients(server, base)
        server.ask_to_end(signal.SIGTERM)
        status = server.ended()
        yield Row("an idle server, SIGTERM", 1, f"ended at once with {status}", status == -signal.SIGTERM)
    for name, arguments in CACHES.items():
        base = town(folder / name.strip("-").replace(" ", "_"))
        with ComfyServer(locate_comfyui(), base, arguments) as server:
            yield _another_seed_of_the_drawing(name, server, base)


def _cancelled_and_queued_again(server: ComfyServer, base: pathlib.Path) -> Row:
    graphs = [training(STEPS, seed=seed) for seed in (1, 2)]
    try:
        server.run(graphs[0], on_progress=at_step(1, server.interrupt))
    except RuntimeError:
        pass
    second = server.queue(graphs[1])
    server.interrupt()
    server.wait(second)
    steps = sum(run.record.steps_done for run in runs_of(base))
    for prompt in [server.queue(graph) for graph in graphs]:
        server.wait(prompt)
    runs = runs_of(base)
    done = [run.record.steps_done for run in runs]
    good = done == [sum(STEPS)] * 2 and 0 < steps < 2 * sum(STEPS)
    found = f"{steps} steps kept by Cancel, then {len(runs)} runs of {done}"
    return Row("two queued, cancelled, queued again", 4, found, good)


def _two_clients(server: ComfyServer, base: pathlib.Path) -> Row:
    """The same training from two browser tabs."""
    first = server.queue(training(STEPS, seed=3))
    server.client_id = uuid.uuid4().hex
    second = server.queue(training(STEPS, seed=3, preview_prompt="<v1>"))
    server.wait(first)
    runs = {run.name: run.changed for run in runs_of(base)}
    status = server.wait(second)["status"]["status_str"]
    same = runs == {run.name: run.changed for run in runs_of(base)}
    found = f"trained once: {same}, the second one: {status}"
    return Row("two browser tabs, the same training", 2, found, same and status == "success")


def _another_seed_of_the_drawing(name: str, server: ComfyServer, base: pathlib.Path) -> Row:
    times, changed = [], []
    for seed in (1, 2, 3):
        started = time.monotonic()
        server.run(training(STEPS, {"seed": seed}))
        times.append(time.monotonic() - started)
        (run,) = runs_of(base)
        changed.append(run.changed)
    again = ", ".join(f"{seconds:.1f}" for seconds in times[1:])
    found = f"trained in {times[0]:.1f} s, other seeds took {again} s and trained nothing: {len(set(changed)) == 1}"
    return Row(f"{name}, another seed of the drawing", 3, found, len(set(changed)) == 1)
