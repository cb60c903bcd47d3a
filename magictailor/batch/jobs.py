"""Jobs that are done once, in as many processes as there are devices, whatever stops them in between.

A job has a folder of its own. What it found is written there last, and whole: a job with a result is never done again,
and one without is started again, to go on from what its folder holds.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..formats.new_file import new_file
from ..memory import is_out_of_memory
from ..training import TrainingDiverged
from .storage import Storage, read_file

RESTARTS = 3  # of the processes, when one is killed
NOTES = "notes"
Row = dict[str, Any]
"""What is found, by column; `NOTES` holds what a person should read of it."""


@dataclass(frozen=True)
class Job:
    """Something to do once.

    Attributes:
        name: of its folder.
        task: what is to be done, a value that can be pickled and whose `repr` says all of it.
    """

    name: str
    task: Any

    @property
    def result_file(self) -> str:
        """Another task has another one, so its result is not taken for this one's."""
        return f"result-{hashlib.blake2b(repr(self.task).encode(), digest_size=6).hexdigest()}.json"


Work = Callable[[Job, Path, str], list[Row]]
"""Does a job in its folder on a device, "cpu" or "cuda:0"; rows of plain values."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        rows: what it found; none if it failed.
        seconds: that it took, in the process that finished it; 0 if it failed.
        failure: why it has no result, a sentence; "" if it has one.
    """

    rows: tuple[Row, ...] = ()
    seconds: float = 0.0
    failure: str = ""


def outcome_of(folder: Path | Storage, job: Job) -> Outcome | None:
    """The result of a job that is done; None if it is not.

    Args:
        folder: of all jobs.
    """
    text = read_file(folder, f"{job.name}/{job.result_file}")
    if text is None:
        return None
    found = json.loads(text)
    return Outcome(tuple(found["rows"]), found["seconds"])


def do(work: Work, job: Job, folder: Path | Storage, device: str) -> Outcome:
    """Do a job, unless it is done.

    What the user has to change, and a training that cannot go on, are told in the outcome.
    """
    known = outcome_of(folder, job)
    if known is not None:
        return known
    if isinstance(folder, Storage):
        try:
            with folder.brought(job.name, last=lambda name: name == f"{job.name}/{job.result_file}") as here:
                return do(work, job, here, device)
        except OSError as error:
            return Outcome(failure=f"{folder.url}: {' '.join(str(error).split())}")
    started = time.monotonic()
    own = folder / job.name
    own.mkdir(parents=True, exist_ok=True)
    try:
        with _threads_of(device):
            rows = work(job, own, device)
    except Exception as error:
        if not isinstance(error, InputError | TrainingDiverged | OSError) and not is_out_of_memory(error):
            raise
        return Outcome(failure=" ".join(str(error).split()))
    seconds = round(time.monotonic() - started, 3)
    # another process may have done it meanwhile: on a machine that was thought to be lost
    with suppress(FileExistsError), new_file(own / job.result_file) as temporary:
        temporary.write_text(json.dumps({"rows": rows, "seconds": seconds}, indent=1), encoding="utf-8")
    return outcome_of(folder, job) or Outcome(tuple(rows), seconds)


def perform(
    work: Work,
    jobs: Sequence[Job],
    folder: Path | Storage,
    devices: Sequence[str],
    after_job: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, Outcome]:
    """Do all jobs on this machine, one at a time on each device.

    Args:
        work: a function of a module, so that other processes find it.
        devices: one process each; with one device it is this process. A CPU is given once for each core to use.
        after_job: called with every job that was not done before.

    Returns:
        outcomes by the jobs' names.

    Raises:
        RuntimeError: processes were killed again and again, as when memory runs out.
    """
    outcomes = {job.name: known for job in jobs if (known := outcome_of(folder, job)) is not None}
    left = [job for job in jobs if job.name not in outcomes]
    doing = (
        _here(work, left, folder, devices[0])
        if len(devices) == 1 or len(left) == 1
        else _in_processes(work, left, folder, devices)
    )
    for job, outcome in doing:
        outcomes[job.name] = outcome
        after_job(job, outcome)
    return {job.name: outcomes[job.name] for job in jobs}


def local_devices(kind: str | None = None, workers: int = 0) -> list[str]:
    """What to compute on: every GPU, or as many cores of the CPU as this process may use.

    Args:
        kind: "cpu", "cuda" or one device such as "cuda:1"; None takes GPUs if there are any.
        workers: how many; 0 takes all. More than there are GPUs share them.
    """
    if kind is None:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return ["cpu"] * (workers or _cores())
    gpus = [kind] if ":" in kind else [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return [gpus[n % len(gpus)] for n in range(workers or len(gpus))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(work: Work, jobs: Sequence[Job], folder: Path | Storage, device: str) -> Iterator[tuple[Job, Outcome]]:
    for job in jobs:
        yield job, do(work, job, folder, device)


def _in_processes(
    work: Work, jobs: Sequence[Job], folder: Path | Storage, devices: Sequence[str]
) -> Iterator[tuple[Job, Outcome]]:
    # not forked: a copy of a process that has used torch's threads may hang
    spawning = multiprocessing.get_context("spawn")
    left = list(jobs)
    for _ in range(1 + RESTARTS):
        free = spawning.Queue()
        for device in devices:
            free.put(device)
        with ProcessPoolExecutor(len(devices), spawning, _take_device, (free,)) as pool:
            running = {pool.submit(_do_here, work, job, folder): job for job in left}
            try:
                for finished in as_completed(running):
                    outcome = finished.result()
                    left.remove(running[finished])
                    yield running[finished], outcome
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    raise RuntimeError(
        f"processes were killed {1 + RESTARTS} times, which the system does when memory runs out; {len(left)} jobs are "
        "left, and the same command goes on with them"
    )


_device = "cpu"


def _take_device(free: Any) -> None:
    global _device
    _device = free.get()


def _do_here(work: Work, job: Job, folder: Path | Storage) -> Outcome:
    return do(work, job, folder, _device)


@contextmanager
def _threads_of(device: str) -> Iterator[None]:
    """One on a CPU, where each process has a core and sums are rounded alike whatever the number of processes."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
