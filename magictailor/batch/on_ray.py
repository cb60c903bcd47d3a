"""The jobs of a batch on a Ray cluster: Ray places them, and starts those of a lost machine again on another.

Jobs share nothing but the folder, which is on a storage that all machines see by the same path or address.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError
from .early_stopping import Judge
from .jobs import Job, Outcome, Row, Work, do, outcome_of
from .storage import Storage
from .study import Asha

ROOT = Path(__file__).resolve().parents[2]


def perform_on_ray(
    work: Work,
    jobs: Sequence[Job],
    folder: Path | Storage,
    address: str,
    cpus: float = 1.0,
    gpus: float = 0.0,
    after_job: Callable[[Job, Outcome], None] = lambda job, outcome: None,
    asha: Asha | None = None,
) -> dict[str, Outcome]:
    """Do all jobs on a cluster; see `jobs.perform`.

    Args:
        address: "auto" for the cluster this machine belongs to, or `host:port`.
        cpus, gpus: that a job takes; a half lets two jobs share one. With gpus it computes on a GPU.
        asha: what ends jobs early; work then takes a `goes_on`, see `tailor.tailored`.

    Raises:
        InputError: Ray, or with ASHA its Tune, is not installed, or there is no such cluster; names "ray".
    """
    try:
        import ray

        if asha:
            import_module("ray.tune")
    except ImportError as error:
        raise InputError(
            "ray", f"is not installed ({error}); pip install -r requirements-batch.txt brings it"
        ) from error
    # the workers look for this library where it lies here
    paths = {"PYTHONPATH": ":".join(dict.fromkeys([str(ROOT), *filter(None, sys.path)]))}
    try:
        ray.init(
            address=address, runtime_env={"env_vars": paths}, logging_level="warning", log_to_driver=False,
            ignore_reinit_error=True,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError("ray", f"there is no cluster at {address!r} ({' '.join(str(error).split())})") from error
    place = folder.resolve() if isinstance(folder, Path) else folder
    if asha:
        # without a core of its own, for it only answers; what it has said is in the jobs' folders if it is lost
        remote_judge = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Judge)
        judged: Callable[..., list[Row]] = work
        work = partial(judged, goes_on=_Asking(remote_judge.remote(asha, jobs, place)))
    outcomes = {job.name: known for job in jobs if (known := outcome_of(folder, job)) is not None}
    # what a job cannot do is in its outcome, so a task that raises has lost its machine
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(do)
    device = "cuda:0" if gpus else "cpu"
    running = {remote.remote(work, job, place, device): job for job in jobs if job.name not in outcomes}
    while running:
        (finished,), _ = ray.wait(list(running))
        job = running.pop(finished)
        try:
            outcomes[job.name] = ray.get(finished)
        except ray.exceptions.RayError as error:
            outcomes[job.name] = Outcome(failure=" ".join(str(error).split()))
        after_job(job, outcomes[job.name])
    return {job.name: outcomes[job.name] for job in jobs}


class _Asking:
    """A `GoesOn` that asks a `Judge` on the cluster."""

    def __init__(self, judge: Any) -> None:
        self.judge = judge

    def __call__(self, name: str, step: int, score: float) -> bool:
        import ray

        answer: bool = ray.get(self.judge.goes_on.remote(name, step, score))
        return answer
