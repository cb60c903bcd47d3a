"""What the paper's own study would cost on clusters of several sizes, on paper: a simulation, nothing is trained.

Run as `python -m benchmarks.study_cost`. 23 pairs, 11 methods, 640 pictures each, Stable Diffusion 2.1. Jobs go to
whichever GPU is free; every GPU's process reads the checkpoint once, and all share one store. Sizes are counted; times
are assumptions, printed with the table, that flags replace by figures of your own.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

PAIRS, METHODS, PICTURES = 23, 11, 640
CHECKPOINT = 2.6  # GB, of SD 2.1 in 16 bits
TAILORING = 0.041  # GB, of rank 32 on SD 2.1 in 32 bits, by counting
STATE = 3 * TAILORING  # weights and AdamW's two moments
PICTURE = 0.0005  # GB, a PNG of 512 x 512
MINUTES = 60.0


@dataclass(frozen=True)
class Job:
    """Times and sizes of one job.

    Attributes:
        train, draw: seconds of its training, and of all its pictures.
        beside: seconds beside them, such as building the model.
        gigabytes: that it writes.
    """

    train: float
    draw: float
    beside: float
    gigabytes: float

    @property
    def seconds(self) -> float:
        return self.train + self.draw + self.beside


@dataclass(frozen=True)
class Cost:
    """What a study takes.

    Attributes:
        hours: from the first to the last second.
        gpu_hours: that the GPUs are held.
        idle: share of those in which a GPU has nothing to do, at the end.
        start: share of those in which checkpoints are read.
        writing: GB a second to the store on average, beside what it can take.
    """

    hours: float
    gpu_hours: float
    idle: float
    start: float
    writing: float


def cost(job: Job, jobs: int, gpus: int, imports: float, store: float, link: float) -> Cost:
    """Simulate a study of equal jobs.

    Args:
        imports: seconds until a new process has its packages.
        store: GB a second that all readers share.
        link: GB a second that one reader gets at most.
    """
    used = min(gpus, jobs)
    reading = CHECKPOINT / min(link, store / used)
    free = [imports + reading] * used
    heapq.heapify(free)
    for _ in range(jobs):
        heapq.heappush(free, heapq.heappop(free) + job.seconds)
    end = max(free)
    held = used * end
    return Cost(
        hours=end / 3600,
        gpu_hours=held / 3600,
        idle=sum(end - one for one in free) / held,
        start=used * (imports + reading) / held,
        writing=jobs * job.gigabytes / end,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    jobs = PAIRS * METHODS
    states = options.train / options.state_every
    job = Job(
        options.train, PICTURES * options.picture, options.beside, TAILORING + states * STATE + PICTURES * PICTURE
    )
    print(
        f"{jobs} jobs of {job.seconds / MINUTES:.1f} minutes: training {job.train:.0f} s, {PICTURES} pictures "
        f"{job.draw:.0f} s, beside them {job.beside:.0f} s; each writes {job.gigabytes:.2f} GB, "
        f"{jobs * job.gigabytes:.0f} GB in all"
    )
    print("| GPUs | hours | GPU hours | idle at the end | starting | written, GB/s | limit |")
    print("|---|---|---|---|---|---|---|")
    for gpus in options.gpus:
        found = cost(job, jobs, gpus, options.imports, options.store, options.link)
        limits = {"reading the checkpoint": found.start, "the last round of jobs": found.idle, "GPUs": 0.1}
        limit = "writing" if found.writing > options.store else max(limits, key=lambda name: limits[name])
        print(
            f"| {gpus} | {found.hours:.1f} | {found.gpu_hours:.0f} | {found.idle:.1%} | {found.start:.2%} | "
            f"{found.writing:.3f} of {options.store:g} | {limit} |"
        )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study_cost", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description=__doc__.splitlines()[0],
    )  # fmt: skip
    for name, default, help in (
        ("train", 300.0, "seconds of a training; the paper says about five minutes on an A100"),
        ("picture", 2.0, "seconds of a picture, 50 steps of DDIM"),
        ("beside", 15.0, "seconds of a job beside training and drawing"),
        ("imports", 20.0, "seconds until a new process has its packages"),
        ("state_every", 60.0, "seconds from one state on disk to the next"),
        ("store", 1.0, "GB a second of the shared store"),
        ("link", 0.5, "GB a second that one machine gets at most"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=help)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="sizes of clusters")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
