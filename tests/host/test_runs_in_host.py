"""Trainings in the real host outlive Cancel and a killed server, and are not done twice."""

import importlib
import shutil
import threading

import pytest
import torch
from test_interrupt import PAIR, training_graph

from magictailor.runs import Runs
from tools import comfyui
from tools.models import share_models, small_models

STEPS = (3, 6)


@pytest.fixture(scope="module")
def own_base(tmp_path_factory, rendered_pair):
    base = comfyui.make_base_dir(tmp_path_factory.mktemp("killed"))
    share_models(small_models(), base / "models")
    shutil.copytree(rendered_pair, base / "input" / PAIR)
    return base


def graph_for(server, checkpoint, resume):
    graph = training_graph(checkpoint, *STEPS)
    graph["4"]["inputs"] = server.default_inputs("MagicTailorTrainV2") | graph["4"]["inputs"] | {"resume": resume}
    return graph


def at_step(wanted, do):
    """A callback for progress that does something once, when a step has been made."""
    reached = threading.Event()

    def watch(node, step, total):
        if node == "MagicTailorTrainV2" and total and step >= wanted and not reached.is_set():
            reached.set()
            threading.Thread(target=do, daemon=True).start()

    return watch


def test_cancel_and_kill_lose_nothing_and_change_nothing(comfy_root, own_base, checkpoint_name):
    runs = Runs(own_base / "output" / "magictailor" / "runs")
    with comfyui.ComfyServer(comfy_root, own_base) as server:
        done = 0
        for step in (1, 4):
            with pytest.raises(RuntimeError, match="interrupt"):
                server.run(graph_for(server, checkpoint_name, "continue"), on_progress=at_step(step, server.interrupt))
            (run,) = runs.all()
            assert run.record.steps_done >= max(step, done)
            done = run.record.steps_done
            left = [path.name for path in (own_base / "output" / "loras" / "magictailor_unfinished").iterdir()]
            assert f"house_with_roof_at_step_{done}.safetensors" in left
        with pytest.raises((RuntimeError, OSError)):
            server.run(graph_for(server, checkpoint_name, "continue"), on_progress=at_step(done + 1, server.kill))
        (run,) = runs.all()
        assert run.record.steps_done >= done and not run.record.finished
    with comfyui.ComfyServer(comfy_root, own_base) as server:
        server.run(graph_for(server, checkpoint_name, "continue"))
        (run,) = runs.all()
        cut, written = run.state.read_bytes(), run.changed
        assert run.record.finished and run.picture().width > 100
        server.free()
        server.run(graph_for(server, checkpoint_name, "continue"))
        (again,) = runs.all()
        assert (again.name, again.changed) == (run.name, written), "it was trained again"
        server.run(graph_for(server, checkpoint_name, "start over"))
        whole, first = runs.all()
        assert first.name == run.name and first.state.read_bytes() == cut == whole.state.read_bytes()
        graph = {"1": {"class_type": "MagicTailorRuns", "inputs": {"run": run.name, "delete_older_than": 0}}}
        (text,) = server.run(graph)["outputs"]["1"]["text"]
        assert text.count("step 9 of 9, house with roof") == 2
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
