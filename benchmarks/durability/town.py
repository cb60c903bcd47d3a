"""Installations of the real host with the toy town model, and tiny trainings in them."""

from __future__ import annotations

import json
import pathlib
import shutil

from magictailor.errors import InputError
from magictailor.formats.run_state import read_state
from magictailor.formats.tailoring_file import load_tailoring
from magictailor.runs import SNAPSHOT, STATE, Run, Runs
from tools.comfyui import ComfyServer, make_base_dir
from toytown.demo import NODE
from toytown.pairs import SHOWN, write_folder

WATCHING = pathlib.Path(__file__).parent / "watching_node"
TRAIN = "MagicTailorTrainV2"
SIDE = 64


def town(folder: pathlib.Path) -> pathlib.Path:
    """A host installation with this pack, the toy town, a pair to learn, and what watches the server."""
    base = make_base_dir(folder)
    shutil.copytree(NODE, base / "custom_nodes" / "magictailor_toytown")
    shutil.copytree(WATCHING, base / "custom_nodes" / "magictailor_watching")
    folder = write_folder(SHOWN, base / "input")
    # one picture each, so that a step is short
    for path in folder.rglob("*_[1-9]*.png"):
        path.unlink()
    return base


def training(steps: tuple[int, int], drawing: dict | None = None, **changes) -> dict:
    """The API graph of a training that is saved.

    Args:
        steps: of both phases.
        drawing: inputs of a Tailored Sampler that draws with it; None: nothing is drawn.
        changes: inputs of Train.
    """
    settings = {"phase1_train_steps": steps[0], "phase2_train_steps": steps[1], "resolution": SIDE, "lora_rank": 4}
    settings |= {"phase1_learning_rate": 1e-4, "phase2_learning_rate": 1e-5, "seed": 0, "memory": "auto"}
    settings |= {"preview_every": 0, "preview_prompt": "<v0> with <v1>", "resume": "continue", "snapshot_every": 0}
    links = {"model": ["town", 0], "clip": ["town", 1], "vae": ["town", 2], "concept": ["pair", 0]}
    graph = {
        "town": node("ToyTownLoader"),
        "pair": node("MagicTailorLoadPair", folder=SHOWN.name, component_number=1),
        "train": node(TRAIN, **links, **{"components.component 1": ["pair", 1]}, **settings | changes),
        "save": node("MagicTailorSave", tailoring=["train", 0], name="kept"),
    }
    if drawing is not None:
        town = {"model": ["town", 0], "clip": ["town", 1], "latent_image": ["latents", 0], "tailoring": ["train", 0]}
        values = {"prompt": "<v0> with <v1>", "negative_prompt": "", "seed": 0, "steps": 2, "cfg": 3.0}
        values |= {"sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0, "strength": 1.0} | drawing
        graph |= {
            "latents": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
            "draw": node("MagicTailorSampler", **town, **values),
            "look": node("VAEDecode", samples=["draw", 0], vae=["town", 2]),
            "show": node("PreviewImage", images=["look", 0]),
        }
    return graph


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def runs_of(base: pathlib.Path) -> list[Run]:
    return Runs(base / "output" / "magictailor" / "runs").all()


def steps_of(base: pathlib.Path) -> int:
    """Of the run that is farthest, -1 without one."""
    return max((run.record.steps_done for run in runs_of(base)), default=-1)


def broken_files(folder: pathlib.Path) -> int:
    """Files that have the name of a whole one and cannot be read."""
    count = 0
    for path in folder.rglob("*.safetensors"):
        try:
            read_state(path) if STATE.fullmatch(path.name) else _loaded(path)
        except InputError:
            count += 1
    return count


def _loaded(path: pathlib.Path) -> None:
    embedding = path.stem.endswith(("_v0", "_v1")) and not SNAPSHOT.fullmatch(path.name)
    if not embedding:
        load_tailoring(path)
    elif path.stat().st_size == 0:
        raise InputError("embedding", f"{path.name} is empty")


def temporary_files(folder: pathlib.Path) -> int:
    return sum(1 for _ in folder.rglob("*.tmp*"))


def asked(server: ComfyServer, path: str) -> dict:
    """What a route of the watching node answers."""
    return json.loads(server.get(path))
