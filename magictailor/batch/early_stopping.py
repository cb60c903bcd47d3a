"""Trainings that are ended early because others of the same pair draw better: ASHA (Li et al. 2018) as Ray Tune has it.

A training is judged after `grace_period` steps, then after `reduction_factor` times as many, and so on: it goes on if
it is among the best 1 / `reduction_factor` of those that were judged there before. Nobody waits for anybody, so which
ones go on depends on who was first. Pairs are not compared with each other: their scores cannot be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..formats.new_file import replaced_file
from .jobs import Job
from .storage import Storage, read_file
from .study import Asha

GoesOn = Callable[[str, int, float], bool]
"""Whether a training goes on: its job's name, the steps it has made, and its score there."""


class Judge:
    """Has a scheduler of Ray Tune's for each pair, and remembers what it has said.

    Args:
        asha: what it goes by.
        jobs: of the study, with `JudgedTask`s.
        folder: of all jobs; what was judged by an earlier call of the command is read from there.
    """

    def __init__(self, asha: Asha, jobs: Sequence[Job], folder: Path | Storage) -> None:
        self.asha = asha
        self.pairs = {job.name: job.task.pair for job in jobs}
        self.most_steps = max(job.task.config.total_steps for job in jobs)
        self.schedulers: dict[str, Any] = {}
        self.known: set[str] = set()
        self.said: dict[tuple[str, int], bool] = {}
        records = {job.name: read_record(folder, job) for job in jobs}
        for step, name in sorted((step, name) for name, record in records.items() for step in record):
            score, goes_on = records[name][step]
            self.goes_on(name, step, score)
            self.said[name, step] = goes_on

    def goes_on(self, name: str, step: int, score: float) -> bool:
        """See `GoesOn`; asked again, it says the same."""
        if (name, step) not in self.said:
            from ray.tune.schedulers import TrialScheduler

            scheduler = self._scheduler(self.pairs[name])
            trial = SimpleNamespace(trial_id=name)
            if name not in self.known:
                self.known.add(name)
                scheduler.on_trial_add(None, trial)
            answer = scheduler.on_trial_result(None, trial, {"step": step, "score": score})
            self.said[name, step] = answer != TrialScheduler.STOP
        return self.said[name, step]

    def _scheduler(self, pair: str) -> Any:
        from ray.tune.schedulers import ASHAScheduler

        if pair not in self.schedulers:
            self.schedulers[pair] = ASHAScheduler(
                time_attr="step",
                metric="score",
                mode="max",
                max_t=max(self.most_steps, self.asha.grace_period),
                grace_period=self.asha.grace_period,
                reduction_factor=self.asha.reduction_factor,
            )
        return self.schedulers[pair]


def judged(job: Job, folder: Path, step: int, score: Callable[[], float], goes_on: GoesOn) -> bool:
    """Whether a training goes on after a step; what was said once is read from its folder.

    Args:
        job: with a `JudgedTask`.
        folder: of all jobs.
        score: finds it, by drawing; called only where a training is judged.
    """
    if step not in job.task.rungs:
        return True
    record = read_record(folder, job)
    if step not in record:
        found = score()
        record[step] = found, goes_on(job.name, step, found)
        with replaced_file(folder / _record_name(job)) as temporary:
            temporary.write_text(json.dumps(list(record.items())), encoding="utf-8")
    return record[step][1]


def read_record(folder: Path | Storage, job: Job) -> dict[int, tuple[float, bool]]:
    """Of a job: by the steps after which it was judged, its score there, and whether it went on.

    Args:
        folder: of all jobs.
    """
    text = read_file(folder, _record_name(job))
    return {} if text is None else {step: (score, goes_on) for step, (score, goes_on) in json.loads(text)}


def _record_name(job: Job) -> str:
    return f"{job.name}/{job.result_file.replace('result-', 'judged-')}"
