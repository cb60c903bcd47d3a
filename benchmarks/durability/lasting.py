"""One server that trains and draws again and again, with errors and cancels between: what it holds must not grow."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from statistics import mean

from tools.comfyui import ComfyServer, locate_comfyui

from .server import at_step
from .table import Row
from .town import asked, town, training

STEPS = (1, 2)
WARM_UP = 10  # trainings before the first that counts
COMPARED = 20
MOST = 0.02  # that the last may hold more than the first


def lasting(folder: pathlib.Path, times: int) -> Iterator[Row]:
    """So many trainings and drawings, each with another seed; every fifth fails, every seventh is cancelled."""
    held: list[dict[str, int]] = []
    ended = 0
    # by default the host keeps the outputs of all graphs until its memory runs low
    with ComfyServer(locate_comfyui(), town(folder), ("--cache-classic",)) as server:
        for number in range(WARM_UP + times):
            changes = {"seed": number} | ({"preview_prompt": "<v7>"} if number % 5 == 4 else {})
            cancel = at_step(2, server.interrupt) if number % 7 == 6 else None
            try:
                server.run(training(STEPS, {"seed": number}, **changes), on_progress=cancel)
            except RuntimeError:
                ended += 1
            held.append(asked(server, "/magictailor_held"))
    counted = held[WARM_UP:]
    compared = min(COMPARED, len(counted) // 2)
    for what in counted[0]:
        first, last = (mean(one[what] for one in part) for part in (counted[:compared], counted[-compared:]))
        scale = 1e6 if what == "memory" else 1
        first, last = first / scale, last / scale
        found = f"first {compared}: {first:,.1f}, last {compared}: {last:,.1f} ({last / first - 1:+.2%})"
        unit = " in MB" if what == "memory" else ""
        flat = last <= first * (1 + MOST)
        yield Row(f"one server, {what}{unit}", len(counted), f"{found}, {ended} failed or cancelled", flat)
