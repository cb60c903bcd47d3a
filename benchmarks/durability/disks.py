"""Disks that are full or cannot be written, folders that are links, names as long as they may be."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import magictailor.runs
from magictailor.config import TailorConfig
from magictailor.errors import InputError
from magictailor.formats.run_state import read_state
from magictailor.formats.tailoring_file import load_tailoring, save_with_embeddings
from magictailor.reference import Reference
from magictailor.runs import Run, Runs, plan_of
from magictailor.tailoring import Tailoring
from magictailor.training import Training
from toytown.pairs import SHOWN
from toytown.tailoring import references, trainable

from .table import Row
from .town import broken_files, temporary_files

CONFIG = replace(
    TailorConfig(), phase1_train_steps=3, phase2_train_steps=5, resolution=64, lora_rank=4, mixed_precision="no"
)
SIZE = 32 * 2**20  # bytes of the small disk


def disks(folder: pathlib.Path) -> Iterator[Row]:
    """Every row; those that need a disk of their own only as root."""
    expected = _trained(folder / "whole").state.read_bytes()
    if hasattr(os, "getuid") and os.getuid() == 0:
        with _mounted(folder / "small", f"size={SIZE}") as disk:
            yield _full_at_every_write(disk, expected)
            yield _full_at_every_file_of_save(disk)
        with _mounted(folder / "fixed", "ro") as disk:
            yield _refused("folder of runs cannot be written", lambda: _trained(disk / "runs"))
            yield _refused("loras cannot be written", lambda: _saved(disk, folder / "embeddings"))
    with mock.patch.object(pathlib.Path, "chmod", side_effect=PermissionError("refused")):
        yield _same("a mount that refuses chmod", _trained(folder / "unchangeable"), expected)
    (folder / "real").mkdir()
    (folder / "linked").symlink_to(folder / "real")
    yield _same("output is a link", _trained(folder / "linked" / "runs"), expected)
    # the longest name of a folder, and of a file in UTF-8
    yield _same("a folder of 255 bytes", _trained(folder / ("x" * 255)), expected)
    yield _long_name(folder)


def _training(runs: pathlib.Path) -> tuple[Run, Training, magictailor.runs.Plan]:
    # one picture each, so that a step is short
    learned = [Reference(whole.class_word, whole.images[:1], whole.masks[:1]) for whole in references(SHOWN)]
    words = [reference.class_word for reference in learned]
    plan = plan_of(learned, CONFIG, "cpu", "torch.float32", {"checkpoint": "toy town"})
    run = Runs(runs).choose(plan)
    training = Training(trainable(words, CONFIG), learned, CONFIG)
    run.restore(training)
    return run, training, plan


def _trained(runs: pathlib.Path, before_write: Callable[[int], None] = lambda step: None) -> Run:
    """A training of which a state is written after every step."""
    run, training, plan = _training(runs)
    with mock.patch.object(magictailor.runs, "SHARE", 1e9), run.kept(training, plan, runs / "loras") as keeper:
        for report in training:
            before_write(report.step)
            keeper.after_step()
    return run


def _full_at_every_write(disk: pathlib.Path, expected: bytes) -> Row:
    """Before each state the disk is filled: it fails; then room is made, and it is written."""
    run, training, plan = _training(disk / "runs")
    failed, lost = 0, 0
    _fill(disk, 0)
    for check in (magictailor.runs._require_space, lambda *given: None):
        with mock.patch.object(magictailor.runs, "_require_space", check):
            try:
                with run.kept(training, plan, disk / "loras"):
                    raise AssertionError("a full disk was not told before the first step")
            except InputError:
                failed += 1
    (disk / "filler").unlink()
    with mock.patch.object(magictailor.runs, "SHARE", 1e9), run.kept(training, plan, disk / "loras") as keeper:
        for report in training:
            before = run.state.read_bytes()
            # an eighth of a state, so that it breaks off in the middle
            _fill(disk, len(before) // 8)
            keeper.after_step()
            failed += bool(keeper.problem)
            lost += run.state.read_bytes() != before or read_state(run.state)[0].steps_done != report.step - 1
            (disk / "filler").unlink()
            keeper.save()
            lost += bool(keeper.problem) or run.record.steps_done != report.step
    same = run.state.read_bytes() == expected
    wanted = 2 + CONFIG.total_steps
    left = broken_files(disk) + temporary_files(disk)
    found = f"{failed} of {wanted} failed and were told, {lost} states lost, {left} partial files, same bytes: {same}"
    return Row("disk full at every write of a training", wanted, found, failed == wanted and same and not lost + left)


def _full_at_every_file_of_save(disk: pathlib.Path) -> Row:
    """So much room that the first, the second or the third file does not fit."""
    tailoring, told, left = _tailoring(disk), 0, 0
    paths = save_with_embeddings(tailoring, "whole", disk / "s", disk / "s")
    sizes = [path.stat().st_size for path in (*paths.embeddings, paths.tailoring)]
    for fitting in range(3):
        # what is written in part counts too
        _fill(disk, sum(sizes[:fitting]) + sizes[fitting] // 2)
        try:
            save_with_embeddings(tailoring, "mine", disk / "s", disk / "s")
        except OSError as error:
            told += "No space left" in str(error)
        left += len(list((disk / "s").glob("mine*"))) + temporary_files(disk)
        (disk / "filler").unlink()
    load_tailoring(paths.tailoring)
    return Row("disk full at every file of Save", 3, f"{told} of 3 told, {left} files left", told == 3 and not left)


def _long_name(folder: pathlib.Path) -> Row:
    tailoring, kept, faults = _tailoring(folder), 0, []
    names = ["x" * 300, "\N{CJK UNIFIED IDEOGRAPH-5854}" * 90, "e\N{COMBINING ACUTE ACCENT}" * 130]
    names += ["x" * length for length in range(225, 260)]
    for name in names:
        try:
            save_with_embeddings(tailoring, name, folder / "long", folder / "long")
            kept += 1
        except InputError:
            pass
        except OSError as error:
            faults.append(str(error)[:80])
    found = f"{kept} saved, {len(names) - kept - len(faults)} refused in words, {len(faults)} other errors {faults[:1]}"
    return Row("names up to and over 255 bytes", len(names), found, not faults and 0 < kept < len(names))


def _tailoring(folder: pathlib.Path) -> Tailoring:
    _, training, _ = _training(folder / "none")
    return training.result().tailoring


def _saved(loras: pathlib.Path, embeddings: pathlib.Path) -> None:
    try:
        save_with_embeddings(_tailoring(embeddings), "mine", loras, embeddings)
    finally:
        if list(embeddings.rglob("*.safetensors")):
            raise AssertionError("files are left")


def _refused(what: str, act: Callable[[], object]) -> Row:
    try:
        act()
    except (InputError, OSError) as error:
        return Row(what, 1, " ".join(str(error).split())[:110], True)
    return Row(what, 1, "nothing was said", False)


def _same(what: str, run: Run, expected: bytes) -> Row:
    same = run.state.read_bytes() == expected
    return Row(what, 1, f"the bytes of the uncut run: {same}", same)


def _fill(disk: pathlib.Path, left: int) -> None:
    """Leave so many bytes free."""
    with (disk / "filler").open("wb") as file:
        usage = os.statvfs(disk)
        file.write(bytes(max(0, usage.f_bavail * usage.f_frsize - left)))


@contextmanager
def _mounted(folder: pathlib.Path, options: str) -> Iterator[pathlib.Path]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
