"""Runs the shipped workflow in a real ComfyUI on the CPU, with small random models and the rendered example pictures.

The weights are random, so the pictures mean nothing; what is shown is that everything runs from masks to files.
Run as `python -m tools.demo`, or through `nox -s demo`.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import shutil
import time

from .comfyui import PACK_ROOT, STATE_DIR, ComfyServer, locate_comfyui, make_base_dir
from .models import SD1_CHECKPOINT, share_models, small_models
from .workflow import Frontend

WORKFLOW = PACK_ROOT / "workflows" / "tailor_concept_and_component.json"
EXAMPLE = PACK_ROOT / "example_pairs" / "house_a+roof_a"
SAVED_FOLDERS = ("models/loras", "models/embeddings", "output/loras")


def small_overrides(steps: tuple[int, int], resolution: int, sampler_steps: int, size: int) -> dict[str, dict]:
    """Input values, by node type, that let a workflow made for a real SD 1.5 run on the small models in minutes."""
    return {
        "CheckpointLoaderSimple": {"ckpt_name": SD1_CHECKPOINT},
        "MagicTailorGroundedSAMLoader": {
            "grounding_dino": "groundingdino_swint_ogc.pth",
            "sam": "sam_vit_b_01ec64.pth",
        },
        "MagicTailorTrain": {
            "phase1_train_steps": steps[0],
            "phase2_train_steps": steps[1],
            "resolution": resolution,
            "preview_steps": sampler_steps,
        },
        "MagicTailorSampler": {"steps": sampler_steps},
        "KSampler": {"steps": sampler_steps},
        "EmptyLatentImage": {"width": size, "height": size},
        "ImageScaleToTotalPixels": {"megapixels": max(0.01, size * size / 2**20)},
    }


def override(graph: dict, values: dict[str, dict]) -> dict:
    """A copy of an API graph with inputs replaced by node type. Raises KeyError for an input the node does not have."""
    changed = {node_id: node | {"inputs": dict(node["inputs"])} for node_id, node in graph.items()}
    for node in changed.values():
        for name, value in values.get(node["class_type"], {}).items():
            if name not in node["inputs"]:
                raise KeyError(f"{node['class_type']} has no input {name!r}; it has {sorted(node['inputs'])}.")
            node["inputs"][name] = value
    return changed


def main() -> None:
    options = parse_options()
    base = fresh_base_dir(STATE_DIR / "demo")
    result = options.output / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    result.mkdir(parents=True)

    say("Starting ComfyUI ...")
    with ComfyServer(locate_comfyui(), base) as server:
        say(f"Opening {options.workflow.name} in the frontend ...")
        with Frontend(server.url) as frontend:
            graph = frontend.api_graph(options.workflow)
            frontend.screenshot(result / "workflow.png")
        overrides = small_overrides(options.steps, options.resolution, options.sampler_steps, options.size)
        say(f"Running {len(graph)} nodes ...")
        entry = server.run(override(graph, overrides), timeout=3600, on_progress=Clock().say_progress)
        collect_images(server, graph, entry, result)
    collect_files(base, result)
    say(f"\nEverything is in {result}:")
    for path in sorted(path for path in result.rglob("*") if path.is_file()):
        say(f"  {path.relative_to(result)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs=2, default=(12, 12), help="warm-up and DS-Bal steps")
    parser.add_argument("--resolution", type=int, default=64, help="training resolution in pixels")
    parser.add_argument("--sampler-steps", type=int, default=12, help="steps of the Tailored Sampler")
    parser.add_argument("--size", type=int, default=256, help="width and height of the sampled picture")
    parser.add_argument("--workflow", type=pathlib.Path, default=WORKFLOW, help="workflow JSON to run")
    parser.add_argument("--output", type=pathlib.Path, default=PACK_ROOT / "demo_output", help="folder for results")
    return parser.parse_args()


def fresh_base_dir(base: pathlib.Path) -> pathlib.Path:
    """An installation with this pack, the small models and the example pictures, and nothing from earlier runs."""
    say("Making small models (kept for the next run) ...")
    models = small_models()
    shutil.rmtree(base, ignore_errors=True)
    make_base_dir(base)
    share_models(models, base / "models")
    shutil.copytree(EXAMPLE, base / "input" / EXAMPLE.name)
    return base


def collect_images(server: ComfyServer, graph: dict, entry: dict, result: pathlib.Path) -> None:
    """Fetch all pictures of a run: saved ones by their name, previews by the node that showed them."""
    for image in server.images(entry):
        (result / image["filename"]).write_bytes(server.fetch_image(image))
    for node_id, output in entry["outputs"].items():
        previews = [image for image in output.get("images", []) if image["type"] == "temp"]
        for number, image in enumerate(previews):
            suffix = pathlib.PurePath(image["filename"]).suffix
            target = result / "previews" / f"{graph[node_id]['class_type']}_{node_id}_{number}{suffix}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(server.fetch_image(image))


def collect_files(base: pathlib.Path, result: pathlib.Path) -> None:
    """Copy the saved tailoring."""
    for folder in SAVED_FOLDERS:
        if (base / folder).is_dir():
            shutil.copytree(base / folder, result / pathlib.Path(folder).name, dirs_exist_ok=True)


class Clock:
    """Prints what runs, with the seconds since the start."""

    def __init__(self):
        self.start = time.monotonic()

    def say_progress(self, node_type: str, step: int, total: int) -> None:
        what = f"{node_type}: {step} of {total}" if total else node_type
        say(f"{time.monotonic() - self.start:6.0f} s  {what}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
