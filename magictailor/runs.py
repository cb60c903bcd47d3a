"""Trainings that are kept on disk while they go on, and taken up again where they stopped.

A run is a folder. It holds the newest whole state of a training (`state_000312.safetensors`, see `formats.run_state`),
the snapshots that were asked for (`snapshot_000100.safetensors`, ordinary tailorings), and a picture to look at. A
state gets its name when it is whole and on the disk, and only then the one before is removed.

A run goes on when everything that decides what its next step leaves is the same. Free to change are what only says how
much memory is used, and the number of steps: more DS-Bal steps extend a run. Its degradation weight (Eq. 5) counts the
steps of both phases, so the steps that are already made keep the weights of the shorter run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .backbones import family_named
from .config import CONTINUE, RESUME, START_OVER, TailorConfig
from .errors import InputError
from .fingerprints import of_pictures
from .formats.new_file import file_words, free_names, is_temporary, replaced_file
from .formats.run_state import RunRecord, read_record, read_state, write_state
from .formats.tailoring_file import save_tailoring, save_unfinished
from .reference import Reference
from .tailoring import tailoring_from
from .training import Training, TrainingResult

# the second number tells states of one step apart: before and after a run was extended
STATE = re.compile(r"state_\d+(_\d+)?\.safetensors")
SNAPSHOT = re.compile(r"snapshot_\d+\.safetensors")
PICTURE = "report.png"
LOCK = "lock"
SHARE = 0.02  # of the time that keeping states may take
# what decides how a step is computed, not what it leaves
OF_MEMORY = ("memory",)
# the number format a training ends up with is in its identity
_OF_COMPUTING = (*OF_MEMORY, "mixed_precision")
_OF_LENGTH = ("phase1_train_steps", "phase2_train_steps")


class RunInUse(InputError):
    """Another process trains the run; names "runs"."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        class_words: the concept's first.
        config: to train with.
        identity: fingerprints of all else that decides the result, by what a person calls it, see `plan_of`.
    """

    class_words: tuple[str, ...]
    config: TailorConfig
    identity: Mapping[str, str]

    @property
    def name(self) -> str:
        """What its runs are called: house_with_roof-1f4a90c2."""
        fixed = {k: v for k, v in self.config.to_dict().items() if k not in (*_OF_COMPUTING, *_OF_LENGTH)}
        text = json.dumps([self.class_words, fixed, dict(sorted(self.identity.items()))])
        return f"{file_words(self.class_words)}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def differences(self, record: RunRecord) -> list[str]:
        """Why a run cannot go on as this plan, in the words a person uses: "seed 0 -> 1", "pictures"; empty: it can."""
        mine, theirs = self.config.to_dict(), record.config.to_dict()
        changed = [
            f"{name} {theirs[name]} -> {value}"
            for name, value in mine.items()
            if name not in (*_OF_COMPUTING, *_OF_LENGTH) and value != theirs[name]
        ]
        names = {**record.identity, **self.identity}
        changed += [name for name in names if self.identity.get(name) != record.identity.get(name)]
        if self.class_words != record.class_words:
            changed.append("class words")
        warm_up, ends = (c.phase1_train_steps for c in (self.config, record.config))
        if warm_up != ends and record.steps_done > min(warm_up, ends):
            changed.append(f"phase1_train_steps {ends} -> {warm_up}")
        if record.steps_done > self.config.total_steps:
            changed.append(f"steps {record.steps_done} -> {self.config.total_steps}")
        return changed


def plan_of(
    references: Sequence[Reference],
    config: TailorConfig,
    device: str,
    number_format: str,
    checkpoint: Mapping[str, str],
) -> Plan:
    """The plan of a training.

    Args:
        references: the concept first.
        device: its kind, "cpu" or "cuda": they draw other random numbers.
        number_format: it computes in.
        checkpoint: fingerprints by what a person calls them, see `fingerprints`.
    """
    identity = {
        **checkpoint,
        "pictures": of_pictures(picture for reference in references for picture in reference.images),
        "masks": of_pictures(mask for reference in references for mask in reference.masks),
        "device": device,
        "number format": number_format,
    }
    return Plan(tuple(reference.class_word for reference in references), config, identity)


class Run:
    """One run on disk.

    Attributes:
        folder: of its files; need not be there yet.
        note: how it came to be chosen, a sentence for the person who started it; "" for a first run.
    """

    def __init__(self, folder: Path, note: str = "") -> None:
        self.folder = folder
        self.note = note

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> Path | None:
        """Its newest state that can be read; None if there is none."""
        newest = self._newest()
        return newest and newest[0]

    @property
    def record(self) -> RunRecord | None:
        """What it is of, and how far it is; None if it has no state."""
        newest = self._newest()
        return newest and newest[1]

    @property
    def changed(self) -> float | None:
        """When its state was written, in seconds since 1970; None without one."""
        newest = self._newest()
        return newest and newest[2]

    def _newest(self) -> tuple[Path, RunRecord, float] | None:
        while True:
            paths = sorted(_matching(self.folder, STATE), key=_numbers, reverse=True)
            for path in paths:
                with suppress(InputError, FileNotFoundError):
                    return path, read_record(path), path.stat().st_mtime
            if all(path.exists() for path in paths):
                return None
            # a process that trains this run has put another in its place

    @property
    def snapshots(self) -> list[Path]:
        """Its kept tailorings, the earliest first."""
        return sorted(_matching(self.folder, SNAPSHOT), key=_numbers)

    def result(self) -> TrainingResult:
        """What it has learned, without any model.

        Raises:
            InputError: it has no state, or that is damaged; names "run".
        """
        path = self.state
        if path is None:
            raise InputError("run", f"{self.name} has no state that can be read")
        record, state = read_state(path)
        try:
            tailoring = tailoring_from(
                family_named(record.family_name),
                state["lora"],
                state["tokens"],
                record.class_words,
                record.config,
                record.steps_done,
                text_layer=record.text_layer,
                pictures=record.pictures,
            )
        except (KeyError, IndexError) as error:
            raise InputError("run", f"{self.name}/{path.name} is damaged ({error})") from error
        return TrainingResult(tailoring, tuple(state["history"]))

    def restore(self, training: Training) -> None:
        """Bring a new training to where the run stopped; does nothing without a state.

        Raises:
            InputError: the state is damaged, or of a network of other layers; names "run".
        """
        path = self.state
        if path is None:
            return
        _, state = read_state(path)
        _require_shapes(path, {"lora": training.lora, "tokens": training.tokens, "momentum": training.lora}, state)
        try:
            training.load_state_dict(state)
        except (ValueError, KeyError, RuntimeError) as error:
            raise InputError("run", f"{self.name}/{path.name} is damaged ({error})") from error

    def keep_picture(self, picture: Image.Image, made_of: str = "") -> None:
        """Put a picture of the run beside its state, in place of the one before.

        Args:
            made_of: what `picture` asks for.
        """
        info = PngInfo()
        info.add_itxt(PICTURE, made_of)
        path = self.folder / PICTURE
        try:
            with replaced_file(path) as temporary:
                picture.save(temporary, "PNG", pnginfo=info)
        except OSError as error:
            logging.warning("MagicTailor: the picture of run %s could not be written (%s).", self.name, error)

    def picture(self, made_of: str | None = None) -> Image.Image | None:
        """The picture beside its state, RGB; None if there is none, or not one that is made of just that."""
        path = self.folder / PICTURE
        if path.is_symlink():
            return None
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                if made_of in (None, picture.info.get(PICTURE)):
                    return picture.convert("RGB")
        except (OSError, ValueError, SyntaxError):  # what Pillow makes of damaged files
            pass
        return None

    @contextmanager
    def kept(self, training: Training, plan: Plan, loras: Path, snapshot_every: int = 0) -> Iterator[Keeper]:
        """Keep a training on disk while it goes on, and whatever ends it.

        Args:
            training: as it begins, or restored.
            loras: folder for what was learned when something ends it early, see `save_unfinished`.
            snapshot_every: steps from one tailoring that stays to the next; 0 keeps none.

        Raises:
            InputError: the folder cannot be written, the disk is too full, or another process trains this run; names
                "runs". No step has been made then. Of another process it is a RunInUse.

        What ends the training is raised on, when its state is on disk.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            locked = _locked(self.folder / LOCK)
        except OSError as error:
            raise InputError(
                "runs", f"the folder {self.folder} cannot be written ({error.strerror or error})"
            ) from error
        if locked is None:
            raise RunInUse("runs", f"another process is training {self.name}")
        with locked:
            _require_space(self.folder, training)
            for left in self.folder.iterdir():
                if is_temporary(left):
                    left.unlink()
            keeper = Keeper(self, training, plan, snapshot_every)
            try:
                keeper.begin()
            except OSError as error:
                raise InputError("runs", f"the state cannot be written to {self.folder} ({error})") from error
            try:
                yield keeper
            except BaseException:
                keeper.save()
                keeper.leave(loras)
                raise
            keeper.save()

    def delete(self) -> None:
        """Remove it with all its files; files that are not its own stay, and the folder with them.

        Raises:
            InputError: another process trains it; names "run".
        """
        locked = _locked(self.folder / LOCK)
        if locked is None:
            raise InputError("run", f"{self.name} is being trained, so it stays")
        with locked:
            own = [path for path in self.folder.iterdir() if _is_own(path) and path.name != LOCK]
            for path in own:
                path.unlink()
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


class Keeper:
    """Writes the states of a training that goes on; from `Run.kept`.

    A state that cannot be written costs nothing that was learned: it is logged, and tried again with the next one.

    Attributes:
        problem: why the last state could not be written, "" if it could.
        saved_step: of the state that is on disk.
        unfinished: the file in which what was learned lies, once something has ended the training early.
    """

    def __init__(self, run: Run, training: Training, plan: Plan, snapshot_every: int) -> None:
        self.run, self.training, self.plan, self.snapshot_every = run, training, plan, snapshot_every
        self.problem = ""
        self.unfinished: Path | None = None
        self.saved_step = -1
        self.cost = 0.0
        self.saved_at = time.monotonic()

    def begin(self) -> None:
        """Write the first state, which shows that the disk can be written.

        Raises:
            OSError: it cannot.
            InputError: the run has gone on since it was restored; names "runs".
        """
        before = self.run.record
        if before is not None and before.steps_done > self.training.steps_done:
            raise InputError("runs", f"another process has trained {self.run.name} on to step {before.steps_done}")
        if before is not None and before.steps_done == self.training.steps_done and before.config == self.plan.config:
            self.saved_step = before.steps_done
        else:
            self._write()

    def after_step(self) -> None:
        """Write what is due: a snapshot; a state where a phase ends, and so often that it takes `SHARE` of the time."""
        step, config = self.training.steps_done, self.training.config
        if self.snapshot_every and step % self.snapshot_every == 0:
            self._snapshot(step)
        ends_phase = step in (config.phase1_train_steps, config.total_steps)
        if ends_phase or time.monotonic() - self.saved_at >= self.cost / SHARE:
            self.save()

    def save(self) -> None:
        """Write the state of the last whole step, unless it is on disk already."""
        if not self.training.whole or self.training.steps_done == self.saved_step:
            return
        try:
            self._write()
            self.problem = ""
        except (OSError, RuntimeError) as error:  # a full disk; a device that has no memory or no answer
            self.problem = (
                f"the state of step {self.training.steps_done} could not be written to {self.run.folder} ({error}); "
                f"that of step {self.saved_step} is there"
            )
            logging.warning("MagicTailor: %s", self.problem)
            self.saved_at = time.monotonic()

    def leave(self, loras: Path) -> None:
        """Save what has been learned so far as an ordinary file; logs what hinders it."""
        try:
            # in the middle of a step only what is on disk belongs together
            result = self.training.result() if self.training.whole else self.run.result()
            if result.tailoring.steps_done:
                self.unfinished = save_unfinished(result.tailoring, loras)
        except (OSError, RuntimeError, InputError) as error:
            logging.warning("MagicTailor: what was learned could not be written to %s (%s).", loras, error)

    def _write(self) -> None:
        started, step = time.monotonic(), self.training.steps_done
        old = _matching(self.run.folder, STATE)
        model = self.training.model
        record = RunRecord(
            model.family.name,
            self.plan.class_words,
            self.plan.config,
            self.plan.identity,
            step,
            model.text_layer,
            self.training.small_references,
        )
        paths = (self.run.folder / f"{name}.safetensors" for name in free_names(f"state_{step:06}"))
        write_state(next(path for path in paths if path not in old), record, self.training.state())
        for before in old:
            before.unlink(missing_ok=True)
        self.saved_step, self.saved_at = step, time.monotonic()
        self.cost = self.saved_at - started

    def _snapshot(self, step: int) -> None:
        try:
            save_tailoring(self.training.result().tailoring, self.run.folder / f"snapshot_{step:06}.safetensors")
        except FileExistsError:
            pass  # of the same step of this run
        except OSError as error:
            logging.warning("MagicTailor: the snapshot of step %d could not be written (%s).", step, error)


class Runs:
    """All runs of a folder.

    Args:
        folder: need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Run]:
        """Every run that has a state, the newest first."""
        folders = [path for path in self.folder.iterdir() if _is_real(path)] if self.folder.is_dir() else []
        dated = [(date, run) for run in map(Run, folders) if (date := run.changed) is not None]
        return [run for _, run in sorted(dated, key=lambda pair: pair[0], reverse=True)]

    def named(self, name: str) -> Run:
        """A run by its name.

        Raises:
            InputError: there is none; names "run".
        """
        for run in self.all():
            if run.name == name:
                return run
        raise InputError("run", f"there is no run {name!r} in {self.folder}")

    def choose(self, plan: Plan, resume: str = CONTINUE) -> Run:
        """The run in which a plan is to be trained: one that can go on, or a new one. Says so in its `note`.

        Args:
            resume: one of `config.RESUME`.

        Raises:
            InputError: resume is neither; names it.
        """
        if resume not in RESUME:
            raise InputError("resume", f"has to be one of {', '.join(RESUME)}, not {resume!r}")
        known = [(run, record) for run in self.all() if (record := run.record) is not None]
        alike = [(run, record) for run, record in known if record.class_words == plan.class_words]
        if resume == CONTINUE:
            for run, record in alike:
                if not plan.differences(record):
                    return Run(run.folder, _going_on(record, plan))
        # a state that cannot be read is not written over: another version of this program may know it
        name = next(name for name in free_names(plan.name) if _is_free(self.folder / name))
        if not alike:
            return Run(self.folder / name)
        other, record = alike[0]
        why = "it starts over" if resume == START_OVER else f"changed: {', '.join(plan.differences(record))}"
        return Run(
            self.folder / name, f"a new run, for {why}; {other.name} stays as it is, after step {record.steps_done}"
        )

    def older_than(self, days: float) -> list[Run]:
        """The runs whose state was written longer ago than so many days."""
        limit = time.time() - days * 86_400
        return [run for run in self.all() if (date := run.changed) is not None and date < limit]


def _going_on(record: RunRecord, plan: Plan) -> str:
    if record.steps_done == plan.config.total_steps:
        return "nothing is trained again: this run is finished and is taken from disk"
    if record.finished:
        return f"going on after step {record.steps_done}: the run is extended to {plan.config.total_steps} steps"
    return f"going on after step {record.steps_done}" if record.steps_done else ""


def _require_shapes(path: Path, wanted: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    for part, tensors in wanted.items():
        found = state[part]
        if part == "momentum" and found is None:
            continue
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise InputError("run", f"{path.parent.name}/{path.name} is of a network of other layers ({part})")


def _require_space(folder: Path, training: Training) -> None:
    """Two states lie on the disk while one replaces the other; each holds up to four of every trained tensor."""
    trained = sum(tensor.numel() for tensor in (*training.lora.values(), *training.tokens.values())) * 4
    needed, free = 9 * trained, shutil.disk_usage(folder).free
    if free < needed:
        megabytes = [f"{number / 1e6:,.0f} MB" for number in (free, needed)]
        raise InputError(
            "runs", f"the disk of {folder} has {megabytes[0]} left, and this training needs {megabytes[1]}"
        )


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name) and not path.is_symlink()]


def _is_real(folder: Path) -> bool:
    """Whether it is a folder, and not a link, which might lead anywhere."""
    return folder.is_dir() and not folder.is_symlink()


def _is_free(folder: Path) -> bool:
    return not folder.is_symlink() and not _matching(folder, STATE)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _is_own(path: Path) -> bool:
    named = STATE.fullmatch(path.name) or SNAPSHOT.fullmatch(path.name) or path.name in (PICTURE, LOCK)
    return bool(named) or is_temporary(path)


def _locked(path: Path) -> IO[bytes] | None:
    """A file that is locked until it is closed, or its process ends; None if another process has it."""
    # a link might lead anywhere
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)), "r+b")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:
        pass  # a file system without locks
    return file
