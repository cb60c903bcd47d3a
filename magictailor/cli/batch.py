"""What the command `batch` does; see `parser` for what it is given."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..batch.jobs import NOTES, Job, Outcome, local_devices, outcome_of, perform
from ..batch.on_ray import perform_on_ray
from ..batch.results import write_results
from ..batch.storage import Storage
from ..batch.study import Asha, CheckpointSource, Drawing, Study, drawing_of, read_study
from ..batch.tailor import tailored
from ..config import defaults
from ..errors import InputError
from ..fingerprints import of_checkpoint_files


class JobsFailed(Exception):
    """Some jobs have no result; all others are done."""


def batch_command(arguments: argparse.Namespace) -> None:
    """Do all jobs of a study that are not done, write the results, and print their paths.

    Raises:
        InputError: something that was given cannot be used.
        JobsFailed: some jobs have no result; the results of the others are written.
    """
    study = study_of(arguments)
    jobs = study.jobs()
    folder = Storage(arguments.output_dir) if isinstance(arguments.output_dir, str) else arguments.output_dir
    if isinstance(folder, Storage):
        folder.require()
    else:
        folder.mkdir(parents=True, exist_ok=True)
    done = sum(outcome_of(folder, job) is not None for job in jobs)
    with tqdm(total=len(jobs), initial=done, unit="job") as bar:

        def after_job(job: Job, outcome: Outcome) -> None:
            bar.update()
            if outcome.failure:
                bar.write(f"{job.name}: {outcome.failure}")
            for note in dict.fromkeys(row[NOTES] for row in outcome.rows if NOTES in row):
                bar.write(f"{job.name}: {note}")

        if arguments.ray:
            outcomes = perform_on_ray(
                tailored, jobs, folder, arguments.ray, arguments.cpus_per_job, arguments.gpus_per_job, after_job,
                study.asha,
            )  # fmt: skip
        else:
            outcomes = perform(tailored, jobs, folder, local_devices(arguments.device, arguments.workers), after_job)
    for path in write_results(folder, jobs, outcomes):
        print(path)
    failed = sum(bool(outcome.failure) for outcome in outcomes.values())
    if failed:
        raise JobsFailed(f"{failed} of {len(jobs)} jobs have no result; the same command tries them again")


def study_of(arguments: argparse.Namespace) -> Study:
    """The study that a file or folder and the flags describe.

    Raises:
        InputError: something that was given cannot be used.
    """
    given = read_study(arguments.study)
    for name, flag in (
        ("checkpoint", arguments.pretrained_model_name_or_path),
        ("tokenizer", arguments.tokenizer),
        ("prediction_type", arguments.prediction_type),
    ):
        if flag is not None:
            given[name] = flag
    if arguments.encoders:
        given["encoders"] = arguments.encoders
    if arguments.settings:
        given["settings"] = {name: value for name, (value,) in _assigned("settings", arguments.settings).items()}
    if arguments.grid:
        given["grid"] = _assigned("grid", arguments.grid)
    if "checkpoint" not in given:
        raise InputError("pretrained_model_name_or_path", "is not given, and the study names no checkpoint")
    if not given.get("pairs"):
        raise InputError("study", "names no pairs")
    flags = ("prompts", "seeds", "steps", "cfg", "negative_prompt", "width", "height")
    drawn = {name: value for name in flags if (value := getattr(arguments, name)) is not None}
    imports = tuple(given.get("imports", ()))
    for module in imports:
        importlib.import_module(module)
    path, tokenizer = Path(given["checkpoint"]).resolve(), given.get("tokenizer")
    prediction = given.get("prediction_type")
    source = CheckpointSource(
        str(path),
        tokenizer and str(Path(tokenizer).resolve()),
        prediction,
        of_checkpoint_files(path, tokenizer and Path(tokenizer), prediction),
        imports,
    )
    changed = {name: tuple(value) if isinstance(value, list) else value for name, value in drawn.items()}
    return Study(
        pairs=tuple(Path(pair).resolve() for pair in given["pairs"]),
        checkpoint=source,
        settings=_mapping("settings", given.get("settings")),
        grid={name: _values(name, values) for name, values in _mapping("grid", given.get("grid")).items()},
        encoders=tuple(Path(folder).resolve() for folder in given.get("encoders", ())),
        drawing=drawing_of(vars(replace(given.get("drawing", Drawing()), **changed))),
        asha=_asha(arguments),
    )


def _asha(arguments: argparse.Namespace) -> Asha | None:
    if not arguments.asha_grace_period:
        return None
    if not arguments.ray:
        raise InputError("asha_grace_period", "is for --ray alone, whose Tune decides which trainings go on")
    return Asha(arguments.asha_grace_period, arguments.asha_reduction_factor)


def _assigned(field: str, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by name, of what is written NAME=VALUE,VALUE."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or name not in defaults() or (field == "settings" and "," in values):
            raise InputError(field, f"{text!r} is not written like lora_rank=16 with a setting's name")
        found[name] = [_value(field, name, value) for value in values.split(",")]
    return found


def _value(field: str, name: str, text: str) -> Any:
    default = defaults()[name]
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise InputError(field, f"{name} has to be true or false, not {text!r}")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError as error:
        raise InputError(field, f"{name} has to be a number, not {text!r}") from error


def _mapping(field: str, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(field, f"has to name settings, and is {given!r}")
    return given


def _values(name: str, given: Any) -> Sequence[Any]:
    if not isinstance(given, list):
        raise InputError("grid", f"{name} has to have a list of values, and is {given!r}")
    return given
