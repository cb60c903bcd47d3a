"""Ends trainings, fills disks, hands in nonsense, and prints what was lost: nothing, if all rows say ok.

    python -m benchmarks.durability                      everything, on a CPU
    python -m benchmarks.durability kills cancels        some parts
    python -m benchmarks.durability fuzz --inputs 2000   fewer inputs

Trainings are of the toy town model in the real server, or of a tiny checkpoint on the command line. The bytes compared
are those of the finished run's state: LoRA, words, momentum, optimizer and history.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import magictailor.backbones
import toytown.model

from . import command_line, disks, fuzz, huge, lasting, queues, server
from .table import Row

Part = Callable[[pathlib.Path, argparse.Namespace], Iterator[Row]]
PARTS: dict[str, Part] = {
    "kills": lambda folder, given: server.killed(folder, given.times, given.fewer, random.Random(given.seed)),
    "cancels": lambda folder, given: server.cancelled(folder, given.times, random.Random(given.seed)),
    "disks": lambda folder, given: disks.disks(folder),
    "lasting": lambda folder, given: lasting.lasting(folder, given.trainings),
    "queues": lambda folder, given: queues.queues(folder),
    "huge": lambda folder, given: huge.huge(folder),
    "fuzz": lambda folder, given: fuzz.fuzzed(folder, given.inputs, given.seed),
    "command_line": lambda folder, given: command_line.command_line(folder, given.fewer, random.Random(given.seed)),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="durability", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; without any: all")
    parser.add_argument("--times", type=int, default=20, help="how often a server is killed, and a training cancelled")
    parser.add_argument("--fewer", type=int, default=3, help="how often the other ways of ending are tried")
    parser.add_argument("--trainings", type=int, default=100, help="in one server")
    parser.add_argument("--inputs", type=int, default=100_000, help="of nonsense")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    logging.getLogger().setLevel(logging.ERROR)  # that a disk is full stands in the table
    toytown.model.family(magictailor.backbones)
    bad = 0
    for name in given.parts or PARTS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for row in PARTS[name](pathlib.Path(folder), given):
                print(row, flush=True)
                bad += not row.good
        print(f"    {name}: {time.monotonic() - started:.0f} s", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
