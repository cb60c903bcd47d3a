"""Trainings in the real host outlive Cancel and a server that is asked to end, and are not done twice.

One that is killed is tried by `benchmarks.durability`, a process that is killed by tests/library/test_runs.py.
"""

import importlib
import signal
import threading

import pytest
import torch

from benchmarks.durability.town import TRAIN, runs_of, town, training
from tools import comfyui

STEPS = (3, 9)
# far longer than a busy server needs to hear of a signal
LONG = (3, 300)


@pytest.fixture(scope="module")
def own_base(tmp_path_factory):
    return town(tmp_path_factory.mktemp("killed"))


def at_step(wanted, do):
    """A callback for progress that does something once, when a step has been made."""
    reached = threading.Event()

    def watch(node, step, total):
        if node == TRAIN and total and step >= wanted and not reached.is_set():
            reached.set()
            threading.Thread(target=do, daemon=True).start()

    return watch


def test_what_ends_a_training_loses_nothing_and_changes_nothing(comfy_root, own_base):
    done = 0

    def cut(server, step, way, graph=None):
        """End a training after a step; the run then, and whether it was kept on the way out."""
        nonlocal done
        with pytest.raises((RuntimeError, OSError)):
            server.run(graph or training(STEPS), on_progress=at_step(step, way))
        if way != server.interrupt:
            server.ended()
        run = runs_of(own_base)[0]
        assert run.record.steps_done >= done and not run.record.finished
        done = run.record.steps_done
        left = [path.name for path in (own_base / "output" / "loras" / "magictailor_unfinished").iterdir()]
        return run, f"house_with_roof_at_step_{done}.safetensors" in left

    with comfyui.ComfyServer(comfy_root, own_base) as server:
        assert cut(server, 1, server.interrupt)[1] and done >= 1
        before = done
        assert cut(server, before + 1, lambda: server.ask_to_end(signal.SIGTERM))[1] and done > before
    with comfyui.ComfyServer(comfy_root, own_base) as server:
        server.run(training(STEPS))
        (run,) = runs_of(own_base)
        cut_bytes, written = run.state.read_bytes(), run.changed
        assert run.record.finished and run.picture().width > 100
        server.free()
        server.run(training(STEPS))
        (again,) = runs_of(own_base)
        assert (again.name, again.changed) == (run.name, written), "it was trained again"
        server.run(training(STEPS, resume="start over"))
        whole, first = runs_of(own_base)
        assert first.name == run.name and first.state.read_bytes() == cut_bytes == whole.state.read_bytes()
        graph = {"1": {"class_type": "MagicTailorRuns", "inputs": {"run": run.name, "delete_older_than": 0}}}
        (text,) = server.run(graph)["outputs"]["1"]["text"]
        assert text.count("step 12 of 12, house with roof") == 2
        done = 0
        new, kept = cut(server, 2, lambda: server.ask_to_end(signal.SIGINT), training(LONG, resume="start over"))
        assert new.name.endswith("_3") and kept and done >= 2
    assert not list(own_base.rglob("*.tmp"))


def test_a_picture_that_fails_does_not_cost_the_training(
    nodes, library, loaded_checkpoint, taesd, rendered_pair, monkeypatch, caplog
):
    def fail(*arguments, **more):
        raise ValueError("no such plot")

    live_view = importlib.import_module(f"{nodes.__name__}.bridge.live_view")
    for name in ("live_picture", "training_report"):
        monkeypatch.setattr(live_view, name, fail)
    concept, component = (part.reference() for part in library.load_pair(rendered_pair))
    with torch.inference_mode():
        tailoring, _, _, report = nodes.MagicTailorTrainV2.execute(
            *loaded_checkpoint[:2], taesd, concept, {"component 1": component}, preview_every=1, resume="start over",
            phase1_train_steps=1, phase2_train_steps=1, resolution=64, lora_rank=4, settings={"preview_steps": 1},
        ).args  # fmt: skip
    assert tailoring.finished and report.ndim == 4
    assert "could not be drawn (ValueError: no such plot)" in caplog.text
