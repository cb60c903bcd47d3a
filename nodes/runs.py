"""The trainings that are kept on disk, and what they have learned so far."""

from dataclasses import replace
from datetime import datetime

import torch
from comfy_api.v0_0_2 import io, ui

from ..magictailor.errors import InputError
from ..magictailor.formats.tailoring_file import load_tailoring
from ..magictailor.runs import Run, Runs
from ..magictailor.tailoring import Tailoring as LibraryTailoring
from .bridge.convert import image_from_pil
from .bridge.errors import artist_errors
from .bridge.output_folders import runs_folder
from .bridge.socket_types import CATEGORY, Tailoring

NAME = "MagicTailor Runs"
NOTHING_TRAINED = "train first, then press R"
GREY = 0.5  # where a run has no picture yet


class MagicTailorRuns(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorRuns",
            display_name=NAME,
            category=CATEGORY,
            description="Lists the trainings that are kept on disk, finished or not, and gives what any of them has "
            "learned so far, or had at a snapshot. Old ones can be deleted.",
            search_aliases=["magictailor runs", "resume", "checkpoints", "snapshots", "training history"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "run",
                    options=_choices(),
                    tooltip="A training in output/magictailor/runs, the newest first, or one of its snapshots. Press R "
                    "to see new ones.",
                ),
                io.Int.Input(
                    "delete_older_than",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="In days: when this node runs, trainings that were last kept longer ago are deleted with "
                    "their snapshots; the chosen one stays. 0 deletes none. Saved tailorings are never touched.",
                ),
            ],
            outputs=[
                Tailoring.Output(display_name="tailoring", tooltip="For Tailored Sampler, Apply and Save Tailoring."),
                io.Image.Output(display_name="picture", tooltip="Its report, or the last sample; grey if it has none."),
                io.String.Output(display_name="overview", tooltip="All runs: date, steps, words."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, run, delete_older_than):
        return [(known.name, known.changed, len(known.snapshots)) for known in Runs(runs_folder()).all()]

    @classmethod
    def execute(cls, run, delete_older_than=0):
        runs = Runs(runs_folder())
        with artist_errors(NAME, {"run": "press R and choose one"}):
            name, _, snapshot = run.partition("/")
            chosen = runs.named(name)
            tailoring = _at_snapshot(chosen, snapshot) if snapshot else chosen.result().tailoring
            picture = chosen.picture()
            deleted = [old for old in runs.older_than(delete_older_than) if old.name != name and delete_older_than]
            for old in deleted:
                old.delete()
        lines = [*filter(None, map(_line, runs.all()))] + [f"deleted: {old.name}" for old in deleted]
        shown = torch.full((1, 256, 256, 3), GREY) if picture is None else image_from_pil(picture)
        return io.NodeOutput(tailoring, shown, "\n".join(lines), ui=ui.PreviewText("\n".join(lines)))


def _choices() -> list[str]:
    """Every run and, below it, its snapshots; if there are none, one entry that says how to get one."""
    names = [
        name
        for run in Runs(runs_folder()).all()
        for name in (run.name, *(f"{run.name}/{path.name}" for path in run.snapshots))
    ]
    return names or [NOTHING_TRAINED]


def _at_snapshot(run: Run, name: str) -> LibraryTailoring:
    for path in run.snapshots:
        if path.name == name:
            record = run.record
            # its file is without them, as every file is that nobody asked to carry them
            return replace(load_tailoring(path), pictures=record.pictures if record else ())
    raise InputError("run", f"{run.name} has no snapshot {name!r}")


def _line(run: Run) -> str:
    """`2026-11-28 14:05, step 312 of 500, tower with roof, 3 snapshots: tower_with_roof-1f4a90c2`; "" if it is gone."""
    record, changed = run.record, run.changed
    if record is None or changed is None:
        return ""
    date = datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
    snapshots = f", {len(run.snapshots)} snapshots" if run.snapshots else ""
    words = " with ".join(record.class_words)
    return f"{date}, step {record.steps_done} of {record.config.total_steps}, {words}{snapshots}: {run.name}"
