"""Tailors a toy town concept and component in a real ComfyUI and leaves a sheet of pictures.

The shipped workflow is opened in the real frontend and run by the real server. Two things are exchanged: the checkpoint
loader for the toy town's.
Run as `python -m toytown.demo`, or through `nox -s demo`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import io
import pathlib
import shutil
import time

import numpy as np
from PIL import Image

from tools.comfyui import PACK_ROOT, STATE_DIR, ComfyServer, locate_comfyui, make_base_dir
from tools.workflow import Frontend

from .backgrounds import BACKGROUNDS
from .captions import article
from .model import RESOLUTION
from .pairs import ASKED, SHOWN, Pair, masked_pictures, write_folder
from .settings import GUIDANCE, SAMPLER_STEPS
from .sheet import Row, outlined, sheet

WORKFLOW = PACK_ROOT / "workflows" / "01_tailor_concept_and_component.json"
NODE = PACK_ROOT / "toytown" / "comfyui_node"


@dataclasses.dataclass(frozen=True)
class Request:
    """A picture to draw for the sheet, with the tailoring or with the model as it was."""

    prompt: str
    tailored: bool
    seed: int


def main() -> None:
    options = parse_options()
    base = fresh_base_dir(STATE_DIR / "demo", SHOWN)
    result = options.output / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    result.mkdir(parents=True)

    say("Starting ComfyUI ...")
    with ComfyServer(locate_comfyui(), base) as server:
        say(f"Opening {options.workflow.name} in the frontend ...")
        with Frontend(server.url) as frontend:
            graph = in_toy_town(frontend.api_graph(options.workflow), SHOWN)
            frontend.screenshot(result / "workflow.png")
        requests = wanted_pictures(SHOWN)
        prefixes = add_requests(graph, requests)
        say(f"Running {len(graph)} nodes ...")
        start = time.monotonic()
        entry = server.run(graph, timeout=3600, on_progress=Clock(start).say_progress)
        say(f"{time.monotonic() - start:6.0f} s  done")
        pictures = saved_pictures(server, entry)
        drawn = [pictures[prefix] for prefix in prefixes]
    made = sheet(sheet_rows(SHOWN, requests, drawn))
    made.save(result / "sheet.png")
    for name in ("models/loras", "models/embeddings"):
        shutil.copytree(base / name, result / pathlib.Path(name).name, dirs_exist_ok=True)
    say(f"\nEverything is in {result}:")
    for path in sorted(path for path in result.rglob("*") if path.is_file()):
        say(f"  {path.relative_to(result)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--workflow", type=pathlib.Path, default=WORKFLOW, help="workflow JSON to run")
    parser.add_argument("--output", type=pathlib.Path, default=PACK_ROOT / "demo_output", help="folder for results")
    return parser.parse_args()


def fresh_base_dir(base: pathlib.Path, pair: Pair) -> pathlib.Path:
    """An installation with this pack, the toy town's node and a pair's pictures, and nothing from earlier runs."""
    shutil.rmtree(base, ignore_errors=True)
    make_base_dir(base)
    shutil.copytree(NODE, base / "custom_nodes" / "magictailor_toytown")
    write_folder(pair, base / "input")
    return base


def in_toy_town(graph: dict, pair: Pair) -> dict:
    """The API graph of a shipped workflow for the toy town: its loader, its pair with masks, its settings and sizes."""
    graph = copy.deepcopy(graph)
    for loader in nodes_of(graph, "CheckpointLoaderSimple"):
        graph[loader] = {"class_type": "ToyTownLoader", "inputs": {}}
    for loader in nodes_of(graph, "CLIPVisionLoader"):
        graph[loader] = {"class_type": "ToyTownVisionLoader", "inputs": {}}
    for folder in nodes_of(graph, "MagicTailorLoadPair"):
        graph[folder]["inputs"]["folder"] = pair.name
    for train in nodes_of(graph, "MagicTailorTrainV2"):
        inputs = graph[train]["inputs"]
        graph[f"{train}_settings"] = {"class_type": "MagicTailorSettings", "inputs": {"preset": "toy town"}}
        inputs["settings"] = [f"{train}_settings", 0]
        for folder in nodes_of(graph, "MagicTailorLoadPair"):
            (component,) = (name for name in inputs if name.startswith("components."))
            inputs |= {"concept": [folder, 0], component: [folder, 1]}
    samplers = ("MagicTailorSampler", "KSampler", "MagicTailorCompare")
    for sampler in (node for kind in samplers for node in nodes_of(graph, kind)):
        graph[sampler]["inputs"].update(steps=SAMPLER_STEPS, cfg=GUIDANCE)
    for latents in nodes_of(graph, "EmptyLatentImage"):
        graph[latents]["inputs"].update(width=RESOLUTION, height=RESOLUTION)
    for scale in nodes_of(graph, "ImageScaleToTotalPixels"):
        # which does not go down to so few pixels
        size = {"width": RESOLUTION, "height": RESOLUTION, "crop": "disabled", "upscale_method": "lanczos"}
        graph[scale] = {"class_type": "ImageScale", "inputs": {"image": graph[scale]["inputs"]["image"], **size}}
    return graph


def nodes_of(graph: dict, class_type: str) -> list[str]:
    """Ids of all nodes of a type."""
    return [node_id for node_id, node in graph.items() if node["class_type"] == class_type]


def wanted_pictures(pair: Pair) -> list[Request]:
    """Before, the concept with the component, and each token alone."""
    concept, component = pair.class_words
    places = [(seed, BACKGROUNDS[place]) for seed, place in enumerate(ASKED)]
    return [
        *(Request(f"{article(concept)} with {article(component)} {place}", False, seed) for seed, place in places),
        *(Request(f"<v0> with <v1> {place}", True, seed) for seed, place in places),
        *(Request(f"<v{token}> {place}", True, seed) for token in (0, 1) for seed, place in places[:2]),
    ]


def add_requests(graph: dict, requests: list[Request]) -> list[str]:
    """Add the nodes that draw and save; returns the file name prefix of each request."""
    (loader,), (train,) = nodes_of(graph, "ToyTownLoader"), nodes_of(graph, "MagicTailorTrainV2")

    def add(name: str, class_type: str, **inputs) -> list:
        graph[name] = {"class_type": class_type, "inputs": inputs}
        return [name, 0]

    latents = add("sheet_latents", "EmptyLatentImage", width=64, height=64, batch_size=1)
    tailored = add(
        "sheet_apply", "MagicTailorApply", model=[loader, 0], clip=[loader, 1], tailoring=[train, 0], strength=1.0
    )
    plain = ([loader, 0], [loader, 1])
    with_tokens = (tailored, ["sheet_apply", 1])
    prefixes = []
    for number, request in enumerate(requests):
        model, clip = with_tokens if request.tailored else plain
        name = f"sheet_{number:02}"
        drawn = add(
            f"{name}_sampler",
            "KSampler",
            model=model,
            positive=add(f"{name}_prompt", "CLIPTextEncode", clip=clip, text=request.prompt),
            negative=add(f"{name}_empty", "CLIPTextEncode", clip=clip, text=""),
            latent_image=latents,
            seed=request.seed,
            steps=SAMPLER_STEPS,
            cfg=GUIDANCE,
            sampler_name="ddim",
            scheduler="normal",
            denoise=1.0,
        )
        decoded = add(f"{name}_decode", "VAEDecode", samples=drawn, vae=[loader, 2])
        add(f"{name}_save", "SaveImage", images=decoded, filename_prefix=name)
        prefixes.append(name)
    return prefixes


def saved_pictures(server: ComfyServer, entry: dict) -> dict[str, np.ndarray]:
    """The saved pictures of a run by their file name prefix."""
    found = {}
    for image in server.images(entry):
        prefix = image["filename"].rpartition("_0000")[0]
        with Image.open(io.BytesIO(server.fetch_image(image))) as opened:
            found[prefix] = np.array(opened.convert("RGB"))
    return found


def sheet_rows(pair: Pair, requests: list[Request], drawn: list[np.ndarray]) -> list[Row]:
    """The lines of the sheet."""
    concept, component = masked_pictures(pair)
    words = pair.class_words
    references = [(words[0], *entry) for entry in concept] + [(words[1], *entry) for entry in component]
    before = [(r, p) for r, p in zip(requests, drawn, strict=True) if not r.tailored]
    both = [(r, p) for r, p in zip(requests, drawn, strict=True) if r.tailored and "with" in r.prompt]
    alone = [(r, p) for r, p in zip(requests, drawn, strict=True) if r.tailored and "with" not in r.prompt]
    return [
        Row(
            f"Learned from: {words[0]} <v0> and {words[1]} <v1>, outside their masks faded",
            [outlined(picture.pixels, mask) for _, picture, mask in references],
            [f"<v{words.index(word)}>  {word}" for word, _, _ in references],
        ),
        Row(
            f"Before: {article(words[0])} with {article(words[1])} ...",
            [p for _, p in before],
            [r.prompt.partition(words[1])[2].strip() for r, _ in before],
        ),
        Row("After: <v0> with <v1> ...", [p for _, p in both], [r.prompt.partition("<v1> ")[2] for r, _ in both]),
        Row("Each alone", [p for _, p in alone], [r.prompt for r, _ in alone]),
    ]


class Clock:
    """Prints what runs, with the seconds since the start."""

    def __init__(self, start: float):
        self.start = start

    def say_progress(self, node_type: str, step: int, total: int) -> None:
        what = f"{node_type}: {step} of {total}" if total else node_type
        say(f"{time.monotonic() - self.start:6.0f} s  {what}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
